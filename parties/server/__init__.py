"""The control plane over gRPC: `serve` puts a handler behind mutual TLS, `NodeClient` calls one.

Nothing above this package knows gRPC. A handler gets the caller's card, named by the certificate of the connection,
and values; it raises the exceptions of `enclave.errors`, and the same exceptions come out at the client.
"""

from parties.server.client import NodeClient, start_everywhere
from parties.server.wiring import Handler, Limits, NodeServer, serve

__all__ = ["Handler", "Limits", "NodeClient", "NodeServer", "serve", "start_everywhere"]
