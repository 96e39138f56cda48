"""Engines: plaintext oracle, secret sharing, homomorphic encryption; one interface for all."""
