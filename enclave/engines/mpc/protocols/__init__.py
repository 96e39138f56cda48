"""The protocols: each module is a protocol box and, beside it, what the dealer computes for it."""
