"""Mutual TLS 1.3 between parties that know each other's certificates.

gRPC cannot be told a lowest TLS version from Python. But its cipher list governs TLS 1.2 only, and all our
certificates have ECDSA keys: with a list that RSA keys alone can serve, no TLS 1.2 handshake finds a cipher, and
TLS 1.3 is not affected. gRPC reads the list once, while `grpc` is being imported. Hence `require_tls13`, which every
program calls before it imports anything else, and hence no module of this package imports `grpc` at its top.
`accepts_tls12` looks from outside whether it worked; every listener of ours asks it before it serves.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from enclave.errors import EnclaveError, StoreError, Untrusted
from enclave.identity import Card, Identity, TrustStore

if TYPE_CHECKING:
    import grpc

__all__ = [
    "SERVER_NAME",
    "accepts_tls12",
    "dial",
    "peer_card",
    "require_tls13",
    "server_credentials",
    "socket_context",
]

_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"
# Every certificate is also made out to this name: what identifies the peer is the certificate, not its host.
SERVER_NAME = "enclave"


def require_tls13() -> None:
    """Lets gRPC speak nothing older than TLS 1.3 in this process, and keeps it from writing to stderr.

    Raises:
        EnclaveError: `grpc` was imported before, with its own list of ciphers.
    """
    if os.environ.get(_VARIABLE) == _RSA_ONLY:
        return
    if "grpc" in sys.modules:
        raise EnclaveError(
            "grpc was imported before it could be restricted to TLS 1.3",
            hint=f"call enclave.channel.tls.require_tls13() first, or set {_VARIABLE}={_RSA_ONLY}",
            code="internal.tls",
        )
    os.environ[_VARIABLE] = _RSA_ONLY
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def server_credentials(identity: Identity, trust: TrustStore) -> grpc.ServerCredentials:
    """Credentials of a server that talks to holders of trusted certificates only.

    The trusted cards, and this party's own certificate, are looked at anew for every connection: neither a new card
    nor a rotation needs a restart. Who called is `peer_card`'s to say.
    """
    require_tls13()
    import grpc

    held = [identity]

    def look() -> tuple[bytes, bytes, bytes]:
        # From the newest that was read, so that a home that is damaged later takes nothing back.
        now = held[0] = held[0].current()
        return now.tls_key_pem, now.tls_certificate_pem, trust.root_pem() or now.tls_certificate_pem

    def configuration(key: bytes, certificate: bytes, roots: bytes) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(key, certificate)], roots)

    served = [look()]

    def changed() -> grpc.ServerCertificateConfiguration | None:
        found = look()
        if found == served[0]:
            return None
        served[0] = found
        return configuration(*found)

    first = configuration(*served[0])
    # The stubs do not know that None means no change.
    return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=True)  # type: ignore[arg-type]


def dial(
    identity: Identity,
    card: Card,
    address: str,
    *,
    max_message_bytes: int = 4 << 20,
    options: Sequence[tuple[str, int | str]] = (),
) -> grpc.Channel:
    """A connection, opened on first use, to the party of `card` and to nobody else.

    Args:
        address: host:port.
        max_message_bytes: the longest message it takes from there.
        options: further gRPC channel arguments.
    """
    require_tls13()
    import grpc

    identity = identity.current()
    # Safety: the roots are this one party's certificates. None of them may issue others, so that the peer must
    # hold the key of one of them.
    credentials = grpc.ssl_channel_credentials(
        b"".join(pem.rstrip() + b"\n" for pem in card.certificates),
        identity.tls_key_pem,
        identity.tls_certificate_pem,
    )
    settings = {
        "grpc.ssl_target_name_override": SERVER_NAME,
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.max_send_message_length": -1,
        "grpc.enable_http_proxy": 0,
        # Two parties on one address must not share a connection, whatever their credentials.
        "grpc.use_local_subchannel_pool": 1,
        **dict(options),
    }
    return grpc.secure_channel(address, credentials, options=tuple(settings.items()))


def socket_context(identity: Identity, roots_pem: bytes, *, listens: bool) -> ssl.SSLContext:
    """Settings of a TLS 1.3 connection without gRPC, mutually authenticated: the peer must be one of the roots.

    Args:
        roots_pem: at a dialler the certificates on the card of the one party it dials, at a listener all trusted ones;
            which of these it is, `TrustStore.by_certificate` must then say.

    Raises:
        StoreError: the home cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = not listens
    context.verify_mode = ssl.CERT_REQUIRED
    if listens:
        # No resumption: every session shows its certificates, and nothing but our messages follows the handshake.
        context.num_tickets = 0
    try:
        # A file, because the library takes keys from nowhere else; it is what `Identity.current` would read.
        context.load_cert_chain(identity.home / "tls.pem")
        context.load_verify_locations(cadata=roots_pem.decode("ascii"))
    except (OSError, ValueError) as error:
        raise StoreError(f"the TLS key or the trusted cards of {identity.name} cannot be read: {error}") from error
    return context


def peer_card(context: grpc.ServicerContext, trust: TrustStore) -> Card:
    """The card of the party that makes this call, by the certificate of its connection.

    Raises:
        Untrusted: it shows no certificate, or one that stands on no trusted card or is not valid now.
    """
    shown: list[bytes] = list(context.auth_context().get("x509_pem_cert", ()))  # type: ignore[arg-type]
    if len(shown) != 1:
        raise Untrusted("the caller shows no certificate")
    return trust.by_certificate(shown[0])


def accepts_tls12(host: str, port: int, timeout_s: float = 10.0) -> bool:
    """Whether the server there would answer a client that offers TLS 1.2 at most.

    False also where this machine's own OpenSSL cannot offer it.

    Raises:
        EnclaveError: there is no answer at all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME).do_handshake()
    except ssl.SSLWantReadError:
        pass  # the greeting is written, the answer is to be read
    except (ssl.SSLError, ValueError):
        return False
    # A server hello is a handshake record (22); a refusal is an alert (21) or the end of the connection.
    try:
        with socket.create_connection((host, port), timeout_s) as probe:
            probe.sendall(outgoing.read())
            return probe.recv(1) == b"\x16"
    except ConnectionResetError:
        return False
    except OSError as error:
        raise EnclaveError(f"{host}:{port} does not answer: {error}", code="internal.tls") from error
