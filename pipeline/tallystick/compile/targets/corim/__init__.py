"""The target ``corim``: Reference Values as a CoRIM for Verifiers that take them."""
