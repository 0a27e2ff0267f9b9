"""A policy and a channel's verified releases, to compiled policies, each proved."""
