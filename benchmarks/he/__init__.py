"""Homomorphic encryption: products, scoring, training and basic operations, beside stock TenSEAL and OpenFHE."""
