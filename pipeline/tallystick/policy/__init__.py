"""The policy people write, checked, and its normal form."""
