"""The control plane over gRPC: `serve` puts a handler behind mutual TLS, `NodeClient` calls one.

Nothing above this package knows gRPC. A handler gets the caller's card, named by the certificate of the connection,
and values; it raises the exceptions of `enclave.errors`, and the same exceptions come out at the client.

gRPC fixes its TLS settings when it is imported (see `enclave.channel.tls`), so it is imported at first use here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave.clock import Clock, SystemClock
from enclave.identity import Identity, TrustStore
from parties.server.client import NodeClient, start_everywhere
from parties.server.handler import Handler, Limits

if TYPE_CHECKING:
    from parties.server.wiring import NodeServer

__all__ = ["Handler", "Limits", "NodeClient", "serve", "start_everywhere"]


def serve(
    handler: Handler,
    *,
    identity: Identity,
    trust: TrustStore,
    listen: str,
    limits: Limits | None = None,
    clock: Clock | None = None,
    reflect: bool = False,
) -> NodeServer:
    """Starts serving `handler` on `listen` (host:port, port 0 for any free one).

    Args:
        reflect: whether gRPC reflection is served; each of its streams holds a thread, so only for development.

    Raises:
        BadInput: the port is in use, or the address cannot be bound.
    """
    from enclave.channel.tls import require_tls13

    require_tls13()
    from parties.server.wiring import listen_with

    return listen_with(handler, identity, trust, listen, limits or Limits(), clock or SystemClock(), reflect=reflect)
