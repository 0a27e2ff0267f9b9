"""CycloneDX of what is in an image, from contents lists and the derivation graph."""
