"""The peers' environments: DIR itself runs the workers (no packages), DIR/crypten and DIR/spu their ranks.

Versions are pinned. On Linux the default index serves the CUDA build of torch, some gigabytes more; the CPU build is
enough, and taken where pip finds it: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["DEFAULT", "PACKAGES", "install", "python_of"]

DEFAULT = Path(__file__).parents[2] / ".venv-peers"
# Without dependencies: its metadata asks for ten packages, four of which it imports.
_BARE = {"crypten": ("crypten==0.4.1",)}
PACKAGES = {
    "crypten": ("torch==2.13.0", "numpy==2.4.6", "onnx==1.23.2", "pyyaml==6.0.3", "omegaconf==2.4.0"),
    "spu": ("spu==0.9.5", "jax==0.4.34", "numpy==1.26.4"),
}
_PYTHON = (3, 11)
_PROBES = {
    "crypten": "from benchmarks.peers import stub; stub.install(); import crypten",
    "spu": "import spu",
}


def install(folder: Path) -> None:
    """Makes or completes the environments.

    Raises RuntimeError for a Python that a peer has no build for, CalledProcessError when a package cannot be had.
    """
    if sys.version_info[:2] != _PYTHON:
        raise RuntimeError(f"expected Python 3.11, the last that SPU 0.9.5 has a build for, found {sys.version}")
    venv.EnvBuilder(symlinks=True).create(folder)
    for peer, packages in PACKAGES.items():
        home = folder / peer
        if not (home / "bin" / "python").exists():
            venv.EnvBuilder(symlinks=True, with_pip=True).create(home)
        for flags, names in ((["--no-deps"], _BARE.get(peer, ())), ([], packages)):
            if names:
                _run([str(home / "bin" / "python"), "-m", "pip", "install", "-q", *flags, *names])
        _run([str(home / "bin" / "python"), "-c", _PROBES[peer]])


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
    raise FileNotFoundError(f"{paths[-1]} does not exist: python -m benchmarks.peers install makes it")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
