"""SLSA provenance v1 from the derivation graph; rebuild links."""
