"""The inner loops of polynomial arithmetic modulo word-sized primes."""
