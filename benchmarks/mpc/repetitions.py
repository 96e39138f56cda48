"""A program run again and again in one session, and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.mpc.cases import Case
from benchmarks.mpc.inputs import make_inputs
from benchmarks.mpc.programs import FRAC_BITS, Input, Program, Words, ring_inputs, tensors
from benchmarks.networks import PROFILES
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.session import Session
from enclave.engines.mpc.tensor import RingTensor
from enclave.plan import Plan, make_plan

__all__ = ["Repetitions", "plan_of"]


class Repetitions:
    """Repetitions of a case at one rank. Inputs are new values each time, but for what a warm-up may keep."""

    def __init__(
        self,
        session: Session,
        case: Case,
        inputs: Mapping[str, Input],
        shares: Mapping[str, Words] | None,
        profile: str = "loopback",
    ) -> None:
        self._program = Program(case)
        self._engine = MpcEngine(session, FRAC_BITS, PROFILES[profile].chosen_for)
        self._session, self._inputs, self._shares = session, inputs, shares
        self._kept: dict[str, RingTensor] = {}
        self.outputs: dict[str, RingTensor] = {}

    def prepare(self) -> dict[str, RingTensor]:
        """The next repetition's inputs."""
        fresh = tensors(self._session, self._inputs, self._shares)
        self._kept = self._kept or {name: fresh[name] for name in self._program.kept}
        return {**fresh, **self._kept}

    def run(self, inputs: dict[str, RingTensor]) -> None:
        """One repetition, to shares of the outputs."""
        self.outputs = self._program.run(self._engine, inputs)
        for value in self.outputs.values():
            _ = value.share

    def run_all(self, count: int) -> None:
        """That many repetitions, each with its own inputs."""
        for _ in range(count):
            self.run(self.prepare())


def plan_of(case: Case, repetitions: int, profile: str = "loopback") -> Plan:
    """The plan of a session of so many repetitions. The first opens what the others keep."""
    inputs = ring_inputs(case, make_inputs(case))

    def workload(engine: Any) -> None:
        Repetitions(engine.session, case, inputs, None, profile).run_all(repetitions)

    return make_plan(case.parties, FRAC_BITS, workload, PROFILES[profile].chosen_for)
