"""Recipe to image with Nix, twice; contents lists; comparison of rebuilds."""
