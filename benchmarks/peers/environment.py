"""The peers' environments: DIR itself runs the workers (no packages), DIR/crypten, DIR/spu, DIR/openfhe the peers.

Versions are pinned. On Linux the default index serves the CUDA build of torch, some gigabytes more; the CPU build is
enough, and taken where pip finds it: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.

OpenFHE's wheels say that they run on any Python, and each holds an extension for a single one, built on one release of
Ubuntu: what loads here is found by trying. Where none does, the reason is kept and given to who asks for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["DEFAULT", "PACKAGES", "REASON", "install", "python_of"]

DEFAULT = Path(__file__).parents[2] / ".venv-peers"
# Without dependencies: its metadata asks for ten packages, four of which it imports.
_BARE = {"crypten": ("crypten==0.4.1",)}
PACKAGES = {
    "crypten": ("torch==2.13.0", "numpy==2.4.6", "onnx==1.23.2", "pyyaml==6.0.3", "omegaconf==2.4.0"),
    "spu": ("spu==0.9.5", "jax==0.4.34", "numpy==1.26.4"),
}
_PYTHON = (3, 11)
# The version of Python that a wheel's extension is for, and the wheel.
_OPENFHE = (
    ("3.10", "openfhe==1.6.1.0.22.4"),
    ("3.10", "openfhe==1.5.1.0.22.4"),
    ("3.12", "openfhe==1.2.3.0.24.4"),
)
_OPENFHE_PROBE = "import openfhe; openfhe.CCParamsCKKSRNS()"
REASON = "unavailable.txt"
PEERS = (*PACKAGES, "openfhe")
_PROBES = {
    "crypten": "from benchmarks.peers import stub; stub.install(); import crypten",
    "spu": "import spu",
}


def install(folder: Path, peers: Sequence[str] = PEERS) -> None:
    """Makes or completes the environments.

    Raises RuntimeError for a Python that a peer has no build for, CalledProcessError when a package cannot be had.
    Where no wheel of OpenFHE loads nothing is raised: its folder says why.
    """
    if sys.version_info[:2] != _PYTHON and set(peers) & set(PACKAGES):
        raise RuntimeError(f"expected Python 3.11, the last that SPU 0.9.5 has a build for, found {sys.version}")
    venv.EnvBuilder(symlinks=True).create(folder)
    for peer, packages in PACKAGES.items():
        if peer in peers:
            _install(folder / peer, peer, packages)
    if "openfhe" in peers:
        _install_openfhe(folder / "openfhe")


def _install(home: Path, peer: str, packages: Sequence[str]) -> None:
    if not (home / "bin" / "python").exists():
        venv.EnvBuilder(symlinks=True, with_pip=True).create(home)
    for flags, names in ((["--no-deps"], _BARE.get(peer, ())), ([], packages)):
        if names:
            _run([str(home / "bin" / "python"), "-m", "pip", "install", "-q", *flags, *names])
    _run([str(home / "bin" / "python"), "-c", _PROBES[peer]])


def _install_openfhe(home: Path) -> None:
    """The first wheel that loads, with the first Python that it loads in."""
    if (home / "bin" / "python").exists() and not _complaint([str(home / "bin" / "python"), "-c", _OPENFHE_PROBE]):
        return
    complaints = []
    for version, wheel in _OPENFHE:
        for interpreter in _interpreters(version):
            shutil.rmtree(home, ignore_errors=True)
            python = str(home / "bin" / "python")
            complaint = (
                _complaint([str(interpreter), "-m", "venv", str(home)])
                or _complaint([python, "-m", "pip", "install", "-q", wheel, "numpy"])
                or _complaint([python, "-c", _OPENFHE_PROBE])
            )
            if not complaint:
                return
            complaints.append(f"{wheel} with {interpreter}: {complaint}")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    wanted = " or ".join(sorted({version for version, _ in _OPENFHE}))
    reason = "; ".join(complaints) or f"there is no Python {wanted} on this machine"
    (home / REASON).write_text(reason, encoding="utf-8")
    print(f"no wheel of OpenFHE loads here: {reason}", file=sys.stderr)


def _interpreters(version: str) -> Iterator[Path]:
    """Pythons of a version on this machine that start: on the path, or of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    named = shutil.which(f"python{version}")
    found = [Path(named)] if named else []
    for path in (*found, *sorted(root.glob(f"versions/{version}.*/bin/python{version}"))):
        if not _complaint([str(path), "-c", "import venv, ensurepip"]):
            yield path


def _complaint(command: list[str]) -> str:
    """The last line that a command complained, when it fails."""
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"status {done.returncode}"


def python_of(system: str, folder: Path | None = None) -> Path:
    """The interpreter of a system's ranks. Raises FileNotFoundError saying how to get it.

    Args:
        folder: where the environments are; by default that of the running interpreter, or the default folder.
    """
    folders = [folder] if folder else [Path(sys.prefix), DEFAULT]
    paths = [one / system.partition("-")[0] / "bin" / "python" for one in folders]
    for path in paths:
        if path.exists():
            return path
        reason = path.parents[1] / REASON
        if reason.exists():
            raise FileNotFoundError(f"{system} does not load on this machine: {reason.read_text(encoding='utf-8')}")
    raise FileNotFoundError(f"{paths[-1]} does not exist: python -m benchmarks.peers install makes it")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
