"""The channel contract between threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from enclave.channel.memory import memory_network
from tests.enclave.channel.contract import NAMES, ChannelContract, Channels, close_all


class TestMemory(ChannelContract):
    @pytest.fixture
    def network(self) -> Iterator[Callable[[float], Channels]]:
        made: list[Channels] = []

        def make(deadline_s: float) -> Channels:
            made.append(memory_network(NAMES, deadline_s))
            return made[-1]

        yield make
        for channels in made:
            close_all(channels)
