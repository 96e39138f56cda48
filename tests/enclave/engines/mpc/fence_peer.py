"""One rank of a CrypTen program as a process of its own, over gRPC with mutual TLS on loopback.

python -m tests.enclave.engines.mpc.fence_peer HOMES RANK SCRIPT; says its address, reads all addresses, runs.
Ranks 0 and 1 are the program's parties, rank 2 is the dealer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from enclave.channel.tls import require_tls13

require_tls13()

from enclave.channel.grpc_link import Listener, open_channel  # noqa: E402
from enclave.engines.mpc.fence.install import install  # noqa: E402
from enclave.engines.mpc.fence.launch import run_program, serve_program  # noqa: E402
from enclave.identity import Identity, TrustStore  # noqa: E402

NAMES = ("ada", "bob", "cyd")
BUYER, DEALER = 1, 2


def main(homes: str, rank: int, script: Path) -> None:
    home = Path(homes) / NAMES[rank]
    identity, trust = Identity.load(home), TrustStore(home)
    cards = {r: trust.by_name(name) for r, name in enumerate(NAMES) if r != rank}
    if rank != DEALER:
        install()  # before the session: importing torch takes seconds
    listener = None if rank == BUYER else Listener(identity, trust, "s", "127.0.0.1", range(1), cards)
    print(json.dumps(listener.address if listener else ""), flush=True)
    addresses = json.loads(sys.stdin.readline())
    channel = open_channel("s", rank, NAMES, cards, identity, trust, listener, lambda r: addresses[r], BUYER, 60.0)
    if rank == DEALER:
        serve_program(channel, 2, script.read_bytes())
    else:
        run_program(channel, 2, script)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
