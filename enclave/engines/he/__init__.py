"""Homomorphic encryption: the buyer holds the key and sends its model encrypted; an owner computes on its own rows."""
