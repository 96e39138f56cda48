"""Measurements; run from the checkout, not installed."""
