"""The target ``aws-kms``: key policies of AWS KMS for Nitro Enclaves and NitroTPM."""
