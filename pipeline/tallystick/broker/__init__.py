"""The key broker: an HTTP service that lets nothing out that does not tally."""
