"""`HeEngine`: homomorphic encryption at one rank of a session without a dealer.

The buyer, the last rank, holds the secret key; owners compute on their own plaintext rows with its encrypted weights.
There is no arithmetic on secrets here as the other engines have it: a protocol of this package takes the engine,
yields what it sends, and seals its result in an object that knows how to release itself. What leaves an owner before
that is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.linear.encodings import Encodings
from enclave.engines.he.planner import Hiding
from enclave.engines.interface import Permit
from enclave.engines.mpc import session as sessions
from enclave.engines.mpc.session import Item, Session, Tensor
from enclave.engines.mpc.tape import Blank
from enclave.errors import PolicyRefused

__all__ = ["HeEngine", "Keys", "Releasable"]

T = TypeVar("T")


class Releasable(Protocol):
    """A sealed result."""

    def release(self, session: Session, name: str, to: int) -> sessions.Protocol[NDArray[Any] | None]:
        """Opens the result to rank `to`: its array there, None elsewhere. Reveals: it, to `to`."""
        ...


@dataclass(slots=True, repr=False)
class Keys:
    """The keys of one set of parameters: the secret one at the buyer, the public one at all, none in a plan.

    Attributes:
        seed: what uniform halves come from; None in a plan.
        public: None at an owner until it has arrived.
    """

    parameters: Parameters
    seed: PublicSeed | None = None
    secret: SecretKey | None = None
    public: PublicKey | None = None

    def __repr__(self) -> str:
        return f"Keys({self.parameters.describe()})"

    @property
    def words(self) -> int:
        """64-bit words of the public key on the wire."""
        return packed_words(self.parameters.primes, self._shape)

    @property
    def _shape(self) -> tuple[int, int]:
        return (len(self.parameters.primes), self.parameters.degree)

    def allow(self, decryptions: int) -> None:
        """What a protocol is going to decrypt, as its plan says, raises the cap of the key: see `SecretKey.allow`."""
        if self.secret is not None:
            self.secret.allow(decryptions)

    def packed(self) -> Words:
        """The public key on the wire."""
        assert self.public is not None
        return pack(self.public.b, self.parameters.primes)

    def receive(self, words: Words) -> None:
        """Takes the public key as it arrived. Raises BadInput: a residue that is none."""
        if self.public is None and self.seed is not None:
            b = unpack(words, self.parameters.primes, self._shape)
            self.public = PublicKey(self.parameters.ring(), b, self.seed)


class HeEngine:
    """Keys, statements of what hides the rows, and the gate, at one rank.

    Args:
        session: of the owners and the buyer, who is the last rank; a recorder for a plan.
        frac_bits: fractional bits that rows are rounded to, and that other engines would compute with.
        encodings: where an owner keeps encoded rows; None: nowhere.
        workers: threads that compute; None: one for each core.
    """

    def __init__(
        self, session: Session, frac_bits: int = 20, *, encodings: Encodings | None = None, workers: int | None = None
    ) -> None:
        self.session = session
        self.encodings = encodings
        self.workers = workers or os.cpu_count() or 1
        self._frac_bits = frac_bits
        self._statements: dict[Hiding, None] = {}
        self._keys: dict[Parameters, Keys] = {}

    @property
    def rank(self) -> int | None:
        """This rank; None in a plan."""
        return self.session.rank

    @property
    def parties(self) -> int:
        """Owners and buyer."""
        return self.session.parties

    @property
    def frac_bits(self) -> int:
        """Fractional bits of numbers."""
        return self._frac_bits

    @property
    def buyer(self) -> int:
        """The rank that holds the keys and the model, and learns the results."""
        return self.session.parties - 1

    @property
    def is_buyer(self) -> bool:
        """Whether this rank is the buyer."""
        return self.rank == self.buyer

    @property
    def statements(self) -> tuple[Hiding, ...]:
        """What hides the owners' rows in each kind of ciphertext that leaves them. The same at all ranks."""
        return tuple(self._statements)

    def state(self, *statements: Hiding) -> None:
        """Adds statements; equal ones count once."""
        self._statements |= dict.fromkeys(statements)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Steps inside belong to stage `name`."""
        return self.session.named(name)

    def run(self, protocol: sessions.Protocol[T]) -> T:
        """Drives a protocol to its end."""
        return self.session.run(protocol)

    def keys(self, parameters: Parameters, *, decryptions: int = 0) -> sessions.Protocol[Keys]:
        """Fresh keys of the buyer's, once for each set of parameters in a session.

        **Cost** one round, one polynomial to each owner; nothing the second time.
        **Reveals** nothing (RLWE).
        """
        keys, items = self.announced(parameters, decryptions=decryptions)
        if items:
            (words,) = yield items
            keys.receive(words)
        return keys

    def announced(self, parameters: Parameters, *, decryptions: int = 0) -> tuple[Keys, list[Item]]:
        """As `keys`, for who sends something else in the same round: what is to be sent, unless it was before.

        Uniform halves come from the session's public seed, which no party chose, so that only b is sent.

        Args:
            decryptions: how many more ciphertexts may be decrypted under the key.

        Returns: the keys, and an item whose words `Keys.receive` takes; none when they are known.
        """
        known = self._keys.get(parameters)
        if known is not None:
            known.allow(decryptions)
            return known, []
        session, number = self.session, self.session.new_stream()
        keys = self._keys[parameters] = Keys(parameters, _public_seed(session, number))
        if self.is_buyer and keys.seed is not None:
            keys.secret = SecretKey(parameters.key_ring(), Source.fresh(), decryptions)
            keys.public = PublicKey.generate(keys.secret, parameters.ring(), keys.seed)
        value = sent_by(session, self.buyer, keys.words, keys.packed)
        return keys, [Item("he:public key", value, sender=self.buyer)]

    def open(self, name: str, value: Releasable, to: int, permit: Permit) -> NDArray[Any] | None:
        """The plaintext of output `name` at rank `to`, None elsewhere. Reveals: the value, to `to` only."""
        if name not in permit.outputs:
            raise PolicyRefused(f"the permit does not cover {name}", rules=("release.permit",))
        return self.session.run(value.release(self.session, name, to))


def sent_by(session: Session, sender: int, words: int, make: Callable[[], Words]) -> Tensor:
    """The words that `sender` alone makes; a blank of their size elsewhere."""
    return session.local(lambda: make() if session.rank == sender else Blank((words,)), (words,))


def _public_seed(session: Session, number: int) -> PublicSeed | None:
    if session.blank:
        return None
    seed: bytes = cast(Any, session).public_seed
    return PublicSeed.derived(seed + number.to_bytes(8, "big"))
