"""The dealer: deals correlated randomness, sees shapes and no share. Its limits are in its node.toml."""

from __future__ import annotations

from pathlib import Path

from enclave.clock import Clock
from parties.node import NodeProcess, open_node

__all__ = ["serve"]


def serve(home: Path, *, clock: Clock | None = None) -> NodeProcess:
    """Starts the dealer's node; see `open_node`. The caller runs and closes it."""
    return open_node(home, role="dealer", clock=clock)
