"""Secret sharing among n parties with a dealer: additive shares over Z_2^64, fixed point, semi-honest."""
