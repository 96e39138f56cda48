"""Networks with polynomial activations: encrypted weights, plaintext rows, exact integers."""
