"""The target ``gcp-wif``: workload identity federation for Confidential Space, and the bindings of Cloud KMS keys."""
