"""Encrypted weights times an owner's plaintext rows: scores, sums, and products that become shares."""
