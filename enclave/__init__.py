"""Everything one party computes. Nothing here knows of roles, and nothing here imports `parties`."""

__version__ = "0.1.0"
