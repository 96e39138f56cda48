import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

LEVEL: str
HAS_AES: bool

def expand_key(key: bytes, /) -> bytes: ...
def aes_ctr(schedule: bytes, stream: int, offset: int, out: Words, operation: int, /) -> None: ...
