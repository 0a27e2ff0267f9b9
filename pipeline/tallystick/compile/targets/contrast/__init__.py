"""The target ``contrast``: manifests of Edgeless Contrast."""
