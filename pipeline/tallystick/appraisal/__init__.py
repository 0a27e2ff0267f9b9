"""Verified claims against a policy's normal form: a decision with every reason."""
