"""Approximate arithmetic by SEAL, under keys of our own."""
