"""Homomorphic encryption: the buyer holds the key, its encrypted model travels, and the owner computes on its own plaintext rows."""
