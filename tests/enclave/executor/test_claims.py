"""Claims follow what runs, and are the same at every party."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.executor.claims import job_claims, node_claims, untrue
from enclave.messages import Architecture, DatasetRef, Encoding, Feature, JobSpec, NumericFeature, PartyRef

SPEC = JobSpec(
    job_id="ab" * 16,
    kind="evaluate",
    created_unix_s=1,
    expires_unix_s=2,
    parties=(
        PartyRef("acme", "owner", b"a" * 32),
        PartyRef("bob", "buyer", b"b" * 32),
        PartyRef("dan", "dealer", b"d" * 32),
    ),
    datasets=(DatasetRef("acme", "points", b"v" * 32, 9),),
    encoding=Encoding((Feature("a", NumericFeature()),)),
    architecture=Architecture((1,), (), ()),
    outputs=("predictions",),
)


def _values(lines: tuple[str, ...]) -> dict[str, str]:
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def test_claims_name_the_dealer_and_the_numbers_of_the_job() -> None:
    values = _values(job_claims(replace(SPEC, frac_bits=18)))
    assert values["dealer"] == f"dan {(b'd' * 32).hex()[:16]}"
    assert (values["frac_bits"], values["parties"], values["dealer_computes"]) == ("18", "2", "no")
    assert values["transport"].startswith("mutual TLS 1.3,")
    assert values["randomness"].startswith("AES-128-CTR")


@pytest.mark.parametrize(
    ("organisations", "kin"),
    [
        (("", "", ""), ()),
        (("Clinic", "Lab", "Trust Ltd"), ()),
        (("trust ltd", "Lab", "Trust Ltd"), ("acme",)),
        (("Clinic", "\uff34RUST  Ltd", "Trust Ltd"), ("bob",)),
        (("Trust Ltd", "TRUST LTD", "Trust Ltd"), ("acme", "bob")),
        (("", "", "ACME"), ("acme",)),
    ],
)
def test_a_dealer_is_independent_of_all_who_compute(organisations: tuple[str, ...], kin: tuple[str, ...]) -> None:
    parties = tuple(replace(p, organisation=o) for p, o in zip(SPEC.parties, organisations, strict=True))
    spec = replace(SPEC, parties=parties)
    assert tuple(party.name for party in spec.dealer_kin) == kin
    assert _values(job_claims(spec))["dealer.independent"] == ("no" if kin else "yes")
    assert [all(name in text for name in kin) for text in untrue(spec)] == [True] * bool(kin)


def test_a_process_that_would_speak_older_tls_says_so() -> None:
    code = (
        "import grpc\n"
        "from tests.enclave.executor.test_claims import SPEC, job_claims, untrue\n"
        "print([c for c in job_claims(SPEC) if 'TLS' in c], untrue())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_SSL_CIPHER_SUITES"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "mutual TLS 1.2 or 1.3" in done.stdout
    assert "would accept TLS 1.2" in done.stdout


def test_a_node_s_own_lines_are_marked_as_such() -> None:
    assert all(line.startswith("node.") for line in node_claims("production"))
    assert _values(node_claims("development"))["node.profile"] == "development"


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE"])
def test_debug_switches_make_claims_untrue(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert untrue(SPEC) == ()
    monkeypatch.setenv(name, "x")
    assert name in untrue(SPEC)[0]
