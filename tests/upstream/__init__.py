"""CrypTen's own test suite on the fence: see `suite`."""
