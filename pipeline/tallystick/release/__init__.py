"""The release index, rebuild quorum, promotion into TUF channels, revocation."""
