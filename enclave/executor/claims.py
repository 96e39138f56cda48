"""What a receipt may claim, computed from what is running here and now. All parties of a job derive the same lines."""

from __future__ import annotations

import os
import platform
import sys

import enclave
from enclave.errors import EnclaveError
from enclave.messages import JobSpec

__all__ = ["job_claims", "node_claims", "untrue"]


def job_claims(spec: JobSpec) -> tuple[str, ...]:
    """Lines "key=value" about the job that every party must state alike."""
    from enclave.engines.mpc.random import KEY_BYTES

    return (
        f"engine={spec.engine}",
        f"frac_bits={spec.frac_bits}",
        f"protocol={_protocol(spec)}",
        f"parties={len(spec.compute_parties)}",
        *_dealer_claims(spec),
        f"randomness=AES-{8 * KEY_BYTES}-CTR, keys from the operating system",
        f"transport=mutual TLS {_tls_versions()}, every peer pinned to the certificates on its card",
    )


def _protocol(spec: JobSpec) -> str:
    shares = "additive sharing over Z_2^64, semi-honest, one dealer"
    if spec.engine == "mpc":
        return shares
    encryption = "RLWE encryption at 128 bits under keys made for this job"
    if spec.engine == "hybrid":
        return f"{shares}; products of rows and weights under {encryption}, where the plan says so"
    return f"{encryption}; {shares}" if spec.has_dealer else f"{encryption}, semi-honest, no dealer"


def _dealer_claims(spec: JobSpec) -> tuple[str, ...]:
    dealer = spec.dealer
    if dealer is None:
        return ("dealer=no dealer",)
    computes = dealer.key_id in {party.key_id for party in spec.compute_parties}
    return (
        f"dealer={dealer.name} {dealer.key_id.hex()[:16]}",
        f"dealer_computes={'yes' if computes else 'no'}",
        f"dealer.independent={'no' if spec.dealer_kin else 'yes'}",
        f"dealing={'ahead, to disks of the parties, used once' if spec.deal_ahead else 'online'}",
    )


def _tls_versions() -> str:
    from enclave.channel.tls import require_tls13

    try:
        require_tls13()
    except EnclaveError:
        return "1.2 or 1.3"
    return "1.3"


def node_claims(profile: str, transport: str = "grpc") -> tuple[str, ...]:
    """Lines "node.key=value" about this machine alone. `transport` is what its workers offer."""
    return (
        f"node.profile={profile}",
        f"node.transport={'TLS socket where the peer offers it, else gRPC' if transport == 'socket' else 'gRPC'}",
        f"node.version={enclave.__version__}",
        f"node.python={platform.python_version()}",
        f"node.assertions={'on' if __debug__ else 'off'}",
    )


def untrue(spec: JobSpec | None = None) -> tuple[str, ...]:
    """Claims that do not hold in this process (and for this job), in words. A production node does not run then."""
    found = []
    if _tls_versions() != "1.3":
        found.append("this process would accept TLS 1.2")
    debugging = sorted(name for name in _DEBUG_VARIABLES if os.environ.get(name))
    if debugging or sys.flags.dev_mode:
        found.append(f"a debug mode is switched on: {', '.join(debugging) or 'python -X dev'}")
    dealer = spec.dealer if spec is not None else None
    if spec is not None and dealer is not None and dealer.key_id in {party.key_id for party in spec.compute_parties}:
        found.append("the dealer also computes")
    if spec is not None and dealer is not None and spec.dealer_kin:
        found.append(f"{dealer.run_by} runs the dealer and {', '.join(p.name for p in spec.dealer_kin)}")
    return tuple(found)


_DEBUG_VARIABLES = ("SSLKEYLOGFILE", "GRPC_TRACE", "CRYPTEN_DEBUG")
