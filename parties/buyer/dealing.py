"""Having an admitted job dealt ahead: at all nodes and here, unless it is already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from enclave.errors import BadInput, EnclaveError, NotReady, PlanMismatch, SessionError, Untrusted
from enclave.executor.dealing import run_dealing, shelf_of
from enclave.identity import Identity, TrustStore
from enclave.messages import JobSpec, Signed
from parties.buyer.network import everywhere
from parties.buyer.results import Progress
from parties.buyer.watching import Watch

if TYPE_CHECKING:
    from parties.server import NodeClient

__all__ = ["deal", "is_dealt"]

_SETTLE_S = 10.0  # between the end of the dealing phase here and at the slowest node's own records
_POLL_S = 0.05


def is_dealt(spec: JobSpec, identity: Identity, clients: Sequence[NodeClient]) -> bool:
    """Whether every party has something unused on its disk. That it is of one dealing shows when the session begins."""
    if not shelf_of(identity.home).ready(spec.job_id):
        return False
    found = everywhere(lambda client: client.status_now(spec.job_id), clients)
    return all(not isinstance(status, EnclaveError) and status.dealing == "dealt" for status in found)


def deal(
    signed: Signed,
    spec: JobSpec,
    *,
    identity: Identity,
    trust: TrustStore,
    clients: Sequence[NodeClient],
    locate: Callable[[int, Watch], str],
    report: Progress,
) -> None:
    """Runs the dealing phase of the job at all nodes and this party's own rank of it.

    Raises:
        NotReady: a disk is full, or a party went away. The job stays admitted, and this can be tried again.
        PlanMismatch, Untrusted, BadInput: trying again would not help.
    """
    from parties.server import start_everywhere

    watch = Watch(clients, spec.job_id)
    try:
        report("waiting for workers", 0, 0, 0)
        start_everywhere(
            clients,
            spec,
            deal=True,
            waiting=lambda client, _: report(f"waiting for a worker at {client.card.name}", 0, 0, 0),
        )
        run_dealing(
            signed,
            identity=identity,
            trust=trust,
            locate=lambda rank: locate(rank, watch),
            progress=lambda done, total: report("dealing ahead", done, total, done),
            attach=watch.attach,
        )
        _await_nodes(spec, clients)
    except (PlanMismatch, Untrusted, BadInput):
        raise
    except EnclaveError as error:
        raise NotReady(
            f"job {spec.job_id} was not dealt ahead: {error.public}",
            job_id=spec.job_id,
            hint=f"`enclave buyer result {spec.job_id}` tries again; withdraw it to run it online as another job",
        ) from error
    finally:
        watch.stop()


def _await_nodes(spec: JobSpec, clients: Sequence[NodeClient]) -> None:
    """Until every node has recorded what its worker has on the disk."""
    end_s = time.monotonic() + _SETTLE_S
    for client in clients:
        while (status := client.status_now(spec.job_id)).dealing != "dealt":
            if status.dealing != "running" or time.monotonic() > end_s:
                raise SessionError(f"{client.card.name} has nothing that was dealt: it is {status.dealing or 'over'}")
            time.sleep(_POLL_S)
