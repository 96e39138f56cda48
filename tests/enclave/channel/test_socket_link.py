"""The channel contract over TLS sockets, alone and mixed with gRPC; who is let in; and peers that misbehave."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.enclave.channel.contract import ChannelContract, Channels, close_all
from tests.enclave.channel.parties import Parties, make_parties


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(Path(tmp_path_factory.mktemp("homes")))


def networks(parties: Parties, transports: str) -> Iterator[Callable[[float], Channels]]:
    made: list[Channels] = []
    sessions = (f"session-{n}" for n in itertools.count())

    def make(deadline_s: float) -> Channels:
        made.append(parties.connect(next(sessions), deadline_s, transports))
        return made[-1]

    yield make
    for channels in made:
        close_all(channels)


class TestSockets(ChannelContract):
    @pytest.fixture
    def network(self, parties: Parties) -> Iterator[Callable[[float], Channels]]:
        yield from networks(parties, "sss")
