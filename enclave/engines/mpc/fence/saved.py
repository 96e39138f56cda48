"""`crypten.save` and `crypten.load`: shares in files, for a later session of the same parties.

A file is a zip of arrays in NumPy's format, without objects. It holds this rank's shares, drawn anew for the file, so
that it says no more than a share does; plaintext tensors are as they are. All files of one save carry one number,
which is compared when they are loaded: shares of different saves would add up to garbage without a word.
"""

from __future__ import annotations

import importlib
import io
import os
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.binary import BinaryShare
from enclave.engines.mpc.fence.circuits import zero_sharing
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.random import fresh_key
from enclave.engines.mpc.tape import Array
from enclave.errors import BadData, Unsupported

__all__ = ["load", "save"]

_HEAD = "enclave-shares"  # (version, parties, rank, number of the save, whether it is a dictionary)
_PLAIN, _SUMS, _BITS = "plain", "sums", "bits"


def save(obj: Any, f: Any, save_closure: Any = None, **kwargs: Any) -> None:
    """Writes a tensor, or a dictionary of tensors with names, at every rank. Cost: one round of a public word.

    A path is written with mode 0600. Raises Unsupported for other objects, and for a function of the program's own:
    there is no object to pickle.
    """
    if save_closure is not None or kwargs:
        raise Unsupported("crypten.save with save_closure", "shares are written as arrays, objects are not pickled")
    fence = current()
    several = isinstance(obj, Mapping)
    tensors = dict(obj) if several else {"": obj}
    number = fence.publish(np.frombuffer(fresh_key()[:8], np.uint64), (1,), 0)[0]
    head = np.array([1, fence.parties, fence.rank, number, several], np.uint64)
    arrays = {_HEAD: head, **dict(_written(str(name), tensor) for name, tensor in tensors.items())}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, array in arrays.items():
            with archive.open(name, "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    if isinstance(f, str | Path):
        with os.fdopen(os.open(f, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data.getvalue())
    else:
        f.write(data.getvalue())


def _written(name: str, tensor: Any) -> tuple[str, Array]:
    fence, share = current(), getattr(tensor, "_tensor", tensor)
    if isinstance(share, Share):
        zero = fence.session.zero_share(fence.session.new_stream(), share.ring.shape)
        return f"{_SUMS}/{share.bits}/{name}", (share.ring.share + zero).reshape(share.dims)
    if isinstance(share, BinaryShare):
        return f"{_BITS}/{share.bits}/{name}", share.words ^ zero_sharing(fence.session, share.dims)
    if isinstance(tensor, torch.Tensor):
        return f"{_PLAIN}/0/{name}", np.asarray(tensor.detach().cpu().numpy())
    raise Unsupported(f"crypten.save of a {type(tensor).__name__}", "tensors and dictionaries of tensors are saved")


def load(f: Any, load_closure: Any = None, **kwargs: Any) -> Any:
    """Reads what `save` wrote at this rank. Cost: one round of a public word.

    Raises BadData when the file is another one, another rank's, or of another save than rank 0's.
    """
    if load_closure is not None or kwargs:
        raise Unsupported("crypten.load with load_closure", "shares are read as arrays, objects are not unpickled")
    fence = current()
    source = io.BytesIO(Path(f).read_bytes()) if isinstance(f, str | Path) else f
    try:
        with zipfile.ZipFile(source) as archive:
            arrays = {name: _array(archive, name) for name in archive.namelist()}
        version, parties, rank, number, several = (int(word) for word in arrays.pop(_HEAD))
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadData("the file does not hold saved shares", hint="it must be one that crypten.save wrote") from error
    if (version, parties, rank) != (1, fence.parties, fence.rank):
        raise BadData(f"shares of rank {rank} of {parties}, expected rank {fence.rank} of {fence.parties}")
    wanted = fence.publish(np.array([number], np.uint64), (1,), 0)[0]
    if int(wanted) != number:
        raise BadData("the ranks load files of different saves", hint="load at every rank what was saved together")
    found = OrderedDict(_read(name, array) for name, array in arrays.items())
    if not several:
        return found[""]
    found._metadata = {"version": 1}  # type: ignore[attr-defined]  # what CrypTen's modules expect of a state
    return found


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    with archive.open(name) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))


def _read(key: str, array: Array) -> tuple[str, Any]:
    kind, bits, name = key.split("/", 2)
    wrap = importlib.import_module("crypten.mpc").MPCTensor.wrap
    if kind == _SUMS:
        return name, wrap(Share.of(array.astype(np.uint64), array.shape, int(bits)))
    words = array.copy()
    if kind == _BITS:
        return name, wrap(BinaryShare.of(torch.from_numpy(words.view(np.int64)), int(bits)))
    return name, torch.from_numpy(words)
