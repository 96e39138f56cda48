"""Comparisons, exact truncation and counts between the buyer and its owners, with no third party."""
