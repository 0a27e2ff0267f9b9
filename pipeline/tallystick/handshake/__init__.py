"""What attester and broker share: KBS messages, JWE, report-data binding."""
