"""The target ``vault-jwt``: roles of the JWT auth method of Vault and OpenBao."""
