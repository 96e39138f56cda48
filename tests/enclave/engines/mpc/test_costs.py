"""Rounds and bytes are deterministic for a shape: known answers, from the plan and from the wire."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.mpc.protocols.selection import sort_stages, stage_sizes
from enclave.errors import BadSpec
from enclave.plan import make_plan

N = 6400


def _unary(method, **kw):
    return lambda e: getattr(e, method)(e.zeros((N,)), **kw)


def _layer(e):
    """A lazy product, and a ReLU that truncates it. The weight's mask is 8 B more."""
    x = e.matmul(e.zeros((N, 1)), e.zeros((1, 1)), lazy=True)
    return e.relu(x)


def _gated(e):
    y, gate = e.relu_with_gate(e.zeros((N,)))
    return e.gated(gate, y)


# rounds, bytes from one party to another per element, bytes dealt per element
COSTS = {
    "mul": (lambda e: e.mul(e.zeros((N,)), e.zeros((N,))), 2, 24.0, 20.0),
    "scale": (lambda e: e.scale(e.zeros((N,)), 0.3), 1, 8.0, 12.0),
    "ge_zero": (_unary("ge_zero"), 4, 8 + 43 / 8, 305 / 8 + 8),
    "relu": (_unary("relu"), 4, 8 + 43 / 8, 305 / 8 + 16),
    "layer": (_layer, 5, 8 / N + 16 + 33 / 8, 8 + 172 / 8 + 32),
    "gated": (_gated, 5, 2 * 8 + 43 / 8, 305 / 8 + 2 * 8 + 8),
    "exp_of_negative": (_unary("exp_of_negative"), 4, 24 + 43 / 8, 305 / 8 + 156),
}


@pytest.mark.parametrize("name", COSTS)
def test_cost_of_a_protocol(name):
    program, rounds, sent, dealt = COSTS[name]
    plan = make_plan(2, 20, program)
    assert plan.rounds == rounds
    assert plan.link_bytes[(0, 1)] == plan.link_bytes[(1, 0)] == sent * N
    assert plan.dealer_bytes == dealt * N


def test_private_operands_travel_one_way():
    def program(e):
        return e.matmul(e.private(None, (100, 30), 0), e.private(None, (30, 1), 1))

    plan = make_plan(2, 20, program)
    assert plan.rounds == 2
    assert plan.link_bytes == {(0, 1): 8 * 3000 + 800, (1, 0): 8 * 30 + 800, (2, 0): 8 * 100 + 12 * 100}


def test_four_parties_send_to_each_other_alike():
    plan = make_plan(4, 20, lambda e: e.relu(e.zeros((64,))))
    links = {(a, b) for a in range(4) for b in range(4) if a != b}
    assert {link: plan.link_bytes[link] for link in links} == dict.fromkeys(links, 64 * 8 + 17 * 8)


def test_the_wire_carries_what_the_plan_says(run, reveal, parties):
    x = np.random.default_rng(0).normal(size=(30, 4))

    def program(e):
        s = e.private(x if e.rank == 0 else None, x.shape, 0)
        w = e.private(x[:4] if e.rank == 1 else None, (4, 4), 1)
        with e.stage("score"):
            y = e.softmax(e.matmul(s, w))
        return reveal(e, y)

    plan = make_plan(parties, 20, program)
    ran = run(parties, program)
    hello = 32 + 32 + 32 + 16
    for rank in range(parties + 1):
        for link in ran.channels[rank].stats():
            assert link.sent_bytes - hello == plan.link_bytes.get((rank, link.rank), 0)
            assert link.received_bytes - hello == plan.link_bytes.get((link.rank, rank), 0)
    assert {session.rounds for session in ran.sessions} == {plan.rounds}
    assert ran.sessions[parties].dealt_bytes == plan.dealer_bytes
    assert plan.releases == (("value", 0),)


def test_a_loop_is_planned_from_one_pass(run, reveal):
    passes = []

    def program(e):
        total = e.zeros((3,))
        for k in e.repeat(50):
            passes.append(k)
            total = e.add(total, e.mul(e.public(np.ones(3)), e.public(np.full(3, 2.0))))
        return reveal(e, total)

    plan = make_plan(2, 20, program)
    assert passes == [0]
    assert plan.rounds == 101
    assert np.allclose(run(2, program).results[0], 100, atol=1e-3)


def test_a_plan_depends_on_the_shape_alone():
    def program(n):
        return lambda e: e.relu(e.zeros((n,)))

    assert make_plan(2, 20, program(100)).digest == make_plan(2, 20, program(100)).digest
    assert make_plan(2, 20, program(100)).digest != make_plan(2, 20, program(101)).digest


def test_a_quote_grows_with_latency_and_shrinks_with_bandwidth():
    plan = make_plan(2, 20, lambda e: e.relu(e.zeros((10_000,))))
    lan, wan = plan.quote(1e9, 0.3e-3), plan.quote(1e8, 40e-3)
    assert lan.time_s < wan.time_s
    assert wan.time_s > 4 * 0.04
    assert lan.rounds == wan.rounds == 4


def test_a_plan_without_end_is_refused():
    def program(e):
        for _ in e.repeat(10**6):
            for _ in e.repeat(10**6):
                e.scale(e.zeros((3,)), 0.5)

    with pytest.raises(BadSpec, match="steps"):
        make_plan(2, 20, program)


def test_a_loop_without_steps_is_no_way_around_the_limit():
    def program(e):
        for _ in e.repeat(10**12):
            pass

    with pytest.raises(BadSpec, match="steps"):
        make_plan(2, 20, program)


@pytest.mark.parametrize(
    "program",
    [
        lambda e: e.zeros((1 << 29,)) and e.neg(e.zeros((1 << 29,))),
        lambda e: e.private(None, (1 << 29,), 0) and e.mul(e.private(None, (1 << 29,), 0), e.zeros((1,))),
        lambda e: e.argmax_onehot(e.zeros((1 << 20, 1024))),
    ],
)
def test_a_step_too_large_for_memory_is_refused_in_the_plan(program):
    with pytest.raises(BadSpec, match="at once"):
        make_plan(2, 20, program)


def test_a_wide_argmax_is_not_cut_into_crumbs():
    assert make_plan(2, 20, lambda e: e.argmax_onehot(e.zeros((4096, 1000)))).rounds <= 8 * 41 + 8


def test_sort_sizes_need_no_network():
    for n in (*range(1, 70), 100, 1000, 1023, 1025):
        assert list(stage_sizes(n)) == [len(low) for low, _ in sort_stages(n)]
