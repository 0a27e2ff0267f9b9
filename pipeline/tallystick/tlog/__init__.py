"""An append-only Merkle log: proofs, checkpoints, witnesses."""
