"""Where a worker listens, and by which transports: what it tells its node, and the node those that may dial it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from enclave.errors import SessionError
from enclave.identity.card import is_address

__all__ = ["Offer"]

_SOCKET = ",tls://"


@dataclass(frozen=True, slots=True)
class Offer:
    """One host, the port that speaks gRPC, and the port that takes TLS sockets, if there is one.

    Written "host:port" or "host:port,tls://host:port": whoever dials takes the first, unless it offers sockets itself.
    """

    host: str
    grpc_port: int
    socket_port: int | None = None

    def __str__(self) -> str:
        return self.grpc_address + (f"{_SOCKET}{self.host}:{self.socket_port}" if self.socket_port is not None else "")

    @property
    def grpc_address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.grpc_port}"

    def at(self, host: str) -> Offer:
        """The same ports under the name by which others reach this machine."""
        return replace(self, host=host)

    @classmethod
    def parse(cls, text: str, name: str) -> Offer:
        """What `name` says of its worker.

        Raises:
            SessionError: it is no such text. Safety: gRPC would also dial files and resolvers.
        """
        first, scheme, second = text.partition(_SOCKET)
        host, _, port = first.rpartition(":")
        other, _, socket_port = second.rpartition(":")
        if not (host and is_address(first) and (not scheme or (other == host and is_address(second)))):
            raise SessionError(f"the address of the worker of {name} is not host:port", code="session.ended")
        return cls(host, int(port), int(socket_port) if scheme else None)
