"""What is declared, pinned and said about the package agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import enclave

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_every_dependency_is_pinned_within_its_declared_range() -> None:
    declared = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    found = pins()
    assert [str(r) for r in declared if not r.specifier.contains(found.get(canonicalize_name(r.name), "0"))] == []


def test_the_declared_runtimes_can_load_the_generated_code() -> None:
    wire = ROOT / "enclave" / "wire"
    protobuf = re.search(r"Protobuf Python Version: (\S+)", (wire / "job_pb2.py").read_text())
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", (wire / "node_pb2_grpc.py").read_text())
    assert protobuf is not None and grpcio is not None
    declared = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    assert str(declared["protobuf"]) == f">={protobuf[1]}"
    assert str(declared["grpcio"]) == f">={grpcio[1]}"


def test_torch_has_an_upper_bound() -> None:
    """Without one pip takes the newest build with its CUDA packages, which CrypTen has never run on."""
    torch = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert any(s.operator in ("<", "<=", "==", "~=") for s in torch.specifier)


def test_the_version_is_one() -> None:
    assert enclave.__version__ == PROJECT["version"]


def test_the_changelog_has_a_section_for_what_comes_next() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_declared_one() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
