"""Linear and logistic regression on encrypted weights, refreshed under uniform masks."""
