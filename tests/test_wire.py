"""The generated code is what the .proto files say today, and is untouched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITH_SERVICES = {"node.proto"}


def generate(out: Path) -> dict[str, str]:
    """What `make proto` writes: path → text."""
    for proto in sorted((ROOT / "proto").rglob("*.proto")):
        outputs = [f"--python_out={out}", f"--pyi_out={out}"]
        if proto.name in WITH_SERVICES:
            outputs.append(f"--grpc_python_out={out}")
        # A process of its own: protoc's library and SEAL's cannot live in one that has loaded pyarrow.
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outputs, str(proto)]
        assert subprocess.run(command, check=False).returncode == 0, proto.name
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


def test_checked_in_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    expected = generate(tmp_path)
    wire = ROOT / "enclave" / "wire"
    found = {str(path.relative_to(ROOT)): path.read_text() for path in wire.glob("*_pb2*.py*")}
    assert sorted(found) == sorted(expected), "run `make proto`"
    assert [name for name in found if found[name] != expected[name]] == [], "run `make proto`"


def test_services_are_only_where_code_is_generated_for_them() -> None:
    with_services = {p.name for p in (ROOT / "proto").rglob("*.proto") if "\nservice " in p.read_text()}
    assert with_services == WITH_SERVICES


def test_every_proto_lies_where_its_package_is() -> None:
    for proto in (ROOT / "proto").rglob("*.proto"):
        package = ".".join(proto.parent.relative_to(ROOT / "proto").parts)
        assert f"\npackage {package};" in proto.read_text(), proto.name
