"""One rank of a session as a process of its own: exchanges frames until somebody is lost.

python -m tests.enclave.channel.peer HOMES RANK DEADLINE_S SIZE_BYTES grpc|socket; talks JSON lines: its address out,
all addresses in, then `{"ready": true}`, and at the end what it raised.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from enclave.channel.tls import require_tls13

require_tls13()

from enclave.channel.grpc_link import Listener, open_channel  # noqa: E402
from enclave.errors import EnclaveError, PeerLost  # noqa: E402
from enclave.identity import Identity, TrustStore  # noqa: E402

NAMES = ("ada", "bob", "cyd")
BUYER = 1


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main(homes: str, rank: int, deadline_s: float, size: int, transport: str) -> None:
    """Runs the rank; `size` bytes to and from each peer per step."""
    home = Path(homes) / NAMES[rank]
    identity, trust = Identity.load(home), TrustStore(home)
    cards = {r: trust.by_name(name) for r, name in enumerate(NAMES) if r != rank}
    sockets = transport == "socket"
    listener = None if rank == BUYER else Listener(identity, trust, "s", "127.0.0.1", range(1), cards, sockets=sockets)
    say(address=listener.address if listener else "")
    addresses = json.loads(sys.stdin.readline())
    channel = open_channel(
        "s", rank, NAMES, cards, identity, trust, listener, lambda r: str(addresses[r]), BUYER, deadline_s
    )
    step, data = 0, bytes(size)
    try:
        while True:
            for peer in cards:
                channel.send(peer, step, "open", [data])
            for peer in cards:
                channel.receive(peer, step, "open", size)
            step += 1
            if step == 3:
                say(ready=True)
    except EnclaveError as error:
        channel.close(error)
        say(who=error.who if isinstance(error, PeerLost) else "", at=time.time(), text=str(error))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
