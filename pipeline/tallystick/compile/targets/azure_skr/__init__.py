"""The target ``azure-skr``: release policies of Azure Key Vault, and the attestation policies that go with them."""
