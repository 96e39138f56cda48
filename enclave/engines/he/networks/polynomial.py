"""Predictions of a buyer's polynomial network for an owner's rows, without a dealer.

A network is forms and products (`forms`). Its values are shares modulo M, one of the buyer's and one of the owner's,
from the first layer to the release; a share is uniform, so neither tells anything, and every step leaves fresh ones:

    buyer -> owners    Enc(W) of every form that is not a mere copy                          once
    for each owner and each chunk of rows
      owner -> buyer   x W under a mask uniform modulo q: shares of the first forms          "he:input"
      for every further level
        buyer -> owner Enc(u), slots of its shares of the factors
        owner -> buyer 2 u_o Enc(u_b) + r, or u_o Enc(v_b) + v_o Enc(u_b) + r: shares of the products; in the same
                       round s_o Enc(W) + r for the forms of these products, since its share s_o of a product is known
                       to the owner as soon as it has drawn r
      buyer            adds what it can compute alone: u_b v_b, s_b W, biases
    with the permit    owner -> buyer  the high bits of its share of the output              "release:predictions"

**Reveals** to the owner: nothing (RLWE; it decrypts nothing and sees no output). To the buyer, before the permit:
uniform shares. Masks on the first layer are uniform modulo q and hide noise too; later answers are exact modulo t_i, so
their noise is flooded by integers 2^70 or so times as wide, and stated (`Hiding`). With the permit: the output, rounded
to `release_unit` by a threshold that the buyer's own uniform share decides; low bits of the output stay hidden.

**Correctness** values are integers and nothing is truncated, so no wrap is possible below the range of M, which the
buyer checks before; only the first layer is off by a unit, 2^-28, and the release by 2.

**Why not CKKS** A deep CKKS result has 10 to 20 good bits, and 43 bits of flooding for a ciphertext leave none of them;
with two primes a level (scale 2^80) five levels need N = 32768, keys of hundreds of megabytes, and every weight a
ciphertext of its own. Here a square costs 25 bytes up and 16 down for each element and modulus, and no key at all.

**Cost** rounds: 1 for the keys, 1 for the weights, 1 + 2 levels for each chunk of rows, 1 for the release.

**Reference** shares and homomorphic products layer by layer: Juvekar, Vaikuntanathan, Chandrakasan, "Gazelle", USENIX
Security 2018; Mishra et al., "Delphi", 2020, for square activations. There the server has the model and the client the
data and the key; here the owner of the rows computes, so that encrypted weights travel once for all rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine, Keys, sent_by
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.networks.crossterms import Buyer, Moduli, Owner, matmul_modulo
from enclave.engines.he.networks.forms import Form
from enclave.engines.he.networks.plan import NetworkPlan
from enclave.engines.he.networks.predictions import Predictions
from enclave.engines.mpc.session import Item, Protocol, together
from enclave.errors import BadData

__all__ = ["NetworkRows", "predict_network"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NetworkRows:
    """Rows of one owner.

    Attributes:
        rank: of the owner. read: gives rows start..stop as [n, inputs]; None at all others.
        limit: the largest |value| by the declared ranges.
    """

    rank: int
    count: int
    read: Callable[[int, int], Floats] | None
    limit: float


def predict_network(
    engine: HeEngine,
    plan: NetworkPlan,
    rows: Sequence[NetworkRows],
    finish: Callable[[Floats], Floats] | None = None,
) -> Protocol[Predictions]:
    """The network's outputs for all rows, sealed.

    Args:
        plan: with weights in its network at the buyer, without them elsewhere.
        rows: of every owner, in the order of their ranks.
        finish: see `Predictions`.

    Raises: BadData: a row with a value beyond the declared limit.
    """
    moduli = Moduli(plan.parameters, plan.moduli)
    largest = max(part.count for part in rows)
    engine.state(*plan.hiding(moduli, largest))
    keys = yield from engine.keys(plan.parameters)
    network = _Network(engine, plan, moduli, keys, largest)
    yield from network.send_weights()
    parts: list[tuple[int, int, Words | None]] = []
    for start in range(0, largest, plan.chunk_rows):
        chunks = [(part, min(part.count, start + plan.chunk_rows)) for part in rows if start < part.count]
        shares = yield from together(*(network.chunk(part, start, stop) for part, stop in chunks))
        parts += [(part.rank, stop - start, share) for (part, stop), share in zip(chunks, shares, strict=True)]
    parts.sort(key=lambda part: part[0])
    return Predictions(plan, moduli, engine.buyer, tuple(parts), finish)


class _Network:
    """One rank's view of the whole computation: keys, encrypted weights, and the chunk protocol."""

    def __init__(self, engine: HeEngine, plan: NetworkPlan, moduli: Moduli, keys: Keys, largest: int) -> None:
        self.plan, self.moduli, self.session, self.buyer_rank = plan, moduli, engine.session, engine.buyer
        self.keys = keys
        self.buyer: Buyer | None = None
        self.owner: Owner | None = None
        if keys.secret is not None and keys.seed is not None:
            self.buyer = Buyer(moduli, keys.secret, keys.seed)
        elif keys.public is not None and keys.seed is not None:
            self.owner = Owner(moduli, keys.public, keys.seed, Source.fresh())
        forms = plan.network.forms
        self.packings = [None if form.alias is not None else plan.packing(form, largest) for form in forms]
        self.weights: dict[int, Words] = {}  # ciphertexts at an owner, residues at the buyer

    def send_weights(self) -> Protocol[None]:
        """Every form's matrix, encrypted. **Cost** one round."""
        items, places = [], []
        base = self.moduli.base
        for index, packing in enumerate(self.packings):
            if packing is not None:
                first = self.session.new_stream() << 24
                lead = () if self.is_input(index) else (self.moduli.count,)
                shape = (*lead, packing.groups, len(base.primes), base.degree)
                value = self.sent(shape, base.primes, partial(self._encrypted, index, packing, first))
                items.append(Item("he:weights", value, sender=self.buyer_rank))
                places.append((index, shape, first))
        opened = yield items
        if self.owner is not None:
            for (index, shape, first), words in zip(places, opened, strict=True):
                self.weights[index] = self.owner.expanded(unpack(words, base.primes, shape), first)

    def _encrypted(self, index: int, packing: MatrixPacking, first: int) -> Words:
        assert self.buyer is not None
        integers = self._integers(index)
        if self.is_input(index):
            return self.buyer.encrypt_input(integers.astype(np.int64), packing, first)
        self.weights[index] = self.moduli.residues(integers)
        return self.buyer.encrypt_matrix(self.weights[index], packing, first)

    def _integers(self, index: int) -> NDArray[Any]:
        """The matrix of a form as integers of the form's fractional bits, object [inputs, size]."""
        form, bits = self.plan.network.forms[index], self.plan.form_bits[index]
        assert form.parts is not None
        if form.patches is not None:
            assert form.patches.kernel is not None
            return _rounded(form.patches.kernel, bits - self.plan.atom_bits[0])
        parts = [_rounded(form.parts[atom], bits - self.plan.atom_bits[atom]) for atom in form.atoms]
        return np.concatenate(parts)

    def is_input(self, index: int) -> bool:
        """Whether a form is one of the rows alone: its owner knows all that it multiplies."""
        return self.plan.network.forms[index].atoms == (0,)

    def sent(self, shape: tuple[int, ...], primes: tuple[int, ...], make: Callable[[], Words]) -> Any:
        """The buyer's residues on the wire."""
        return sent_by(self.session, self.buyer_rank, packed_words(primes, shape), lambda: pack(make(), primes))

    def chunk(self, rows: NetworkRows, start: int, stop: int) -> Protocol[Words | None]:
        """This rank's share of the output for rows start..stop of one owner; None at who is neither it nor buyer."""
        return (yield from _Chunk(self, rows, start, stop).run())


class _Chunk:
    """The shares of one chunk: forms and atoms by index, [m, rows, size] at the owner and at the buyer."""

    def __init__(self, network: _Network, rows: NetworkRows, start: int, stop: int) -> None:
        self._all, self._moduli, self._session = network, network.moduli, network.session
        self._rank, self._count = rows.rank, stop - start
        self._forms: dict[int, Words] = {}
        self._atoms: dict[int, Words] = {}
        self._owner = network.owner if self._session.rank == rows.rank else None
        self._buyer = network.buyer
        self._integers: NDArray[np.int64] | None = None
        if self._owner is not None:
            self._integers = _integer_rows(rows, start, stop, network.plan.row_bits)
            self._atoms[0] = self._moduli.residues(self._integers)
        elif self._buyer is not None:
            self._atoms[0] = np.zeros((self._moduli.count, self._count, network.plan.network.inputs), np.uint64)

    @property
    def _present(self) -> bool:
        return self._owner is not None or self._buyer is not None

    def run(self) -> Protocol[Words | None]:
        network, pending = self._all.plan.network, tuple[int, ...]()
        for forms, products in network.stages():
            factors = yield from self._factors(pending)
            answers = [*self._product_answers(pending, factors), *self._form_answers(forms)]
            if answers:
                opened = yield [item for item, _ in answers]
                for (_, finish), words in zip(answers, opened, strict=True):
                    if self._buyer is not None:
                        finish(words)
            if self._present:
                self._settle(pending, forms)
            pending = products
        if pending:  # the output is a product
            raise AssertionError("the output of a network is a form")
        return self._forms[len(network.forms) - 1] if self._present else None

    # ---- products
    def _factors(self, products: Sequence[int]) -> Protocol[dict[int, Words]]:
        """The buyer's shares of all factors, encrypted in slots. **Cost** one round, if there is a product."""
        network, moduli = self._all.plan.network, self._moduli
        wanted = sorted({form for i in products for form in (network.products[i].left, network.products[i].right)})
        if not wanted:
            return {}
        items, places = [], []
        primes = moduli.base.primes
        for index in wanted:
            first = self._session.new_stream() << 24
            shape = (moduli.count, self._blocks(network.forms[index].size), len(primes), moduli.degree)
            value = self._all.sent(shape, primes, partial(self._buyer_slots, index, first))
            items.append(Item("he:factors", value, sender=self._all.buyer_rank, to=self._rank))
            places.append((index, shape, first))
        opened = yield items
        if self._owner is None:
            return {}
        found = zip(places, opened, strict=True)
        return {
            index: self._owner.expanded(unpack(words, primes, shape), first) for (index, shape, first), words in found
        }

    def _buyer_slots(self, index: int, first: int) -> Words:
        assert self._buyer is not None
        return self._buyer.encrypt_slots(self._forms[index], first)

    def _blocks(self, width: int) -> int:
        return -(-self._count * width // self._moduli.degree)

    def _product_answers(self, products: Sequence[int], factors: dict[int, Words]) -> list[tuple[Item, Any]]:
        found, moduli = [], self._moduli
        for index in products:
            product = self._all.plan.network.products[index]
            share = np.empty((moduli.count, self._count, product.size), np.uint64)
            if self._present:
                self._atoms[index + 1] = share
            for i in range(moduli.count):
                shape = (self._blocks(product.size), 2, moduli.degree)

                def answer(i: int = i, share: Words = share, product: Any = product) -> Words:
                    assert self._owner is not None
                    left, right = self._forms[product.left][i], self._forms[product.right][i]
                    prime = np.uint64(moduli.primes[i])
                    if product.left == product.right:
                        pairs = [((left + left) % prime, factors[product.left][i])]
                    else:
                        pairs = [(right, factors[product.left][i]), (left, factors[product.right][i])]
                    answers, own = self._owner.answer_slots(i, pairs)
                    share[i] = (own + self._alone(i, left, right)) % prime
                    return answers.reshape(-1)

                def finish(
                    words: Words, i: int = i, share: Words = share, product: Any = product, shape: Any = shape
                ) -> None:
                    assert self._buyer is not None
                    theirs = self._buyer.open_slots(i, words.reshape(shape), (self._count, product.size))
                    own = self._alone(i, self._forms[product.left][i], self._forms[product.right][i])
                    share[i] = (theirs + own) % np.uint64(moduli.primes[i])

                found.append((self._answer(shape[0], math.prod(shape), answer, "he:products"), finish))
        return found

    def _alone(self, index: int, left: Words, right: Words) -> Words:
        """The product of this rank's own shares."""
        moduli = self._moduli
        product = moduli.times(index, moduli.spread(left), moduli.spread(right))
        return product.reshape(-1)[: left.size].reshape(left.shape)

    # ---- forms
    def _form_answers(self, forms: Sequence[int]) -> list[tuple[Item, Any]]:
        found, moduli = [], self._moduli
        for index in forms:
            packing = self._all.packings[index]
            if packing is None:
                continue
            form = self._all.plan.network.forms[index]
            share = np.empty((moduli.count, self._count, form.size), np.uint64)
            if self._present:
                self._forms[index] = share
            if self._all.is_input(index):
                found.append(self._input_answer(index, packing, share))
            else:
                found += [self._matrix_answer(index, i, packing, share) for i in range(moduli.count)]
        return found

    def _input_answer(self, index: int, packing: MatrixPacking, share: Words) -> tuple[Item, Any]:
        moduli, patches = self._moduli, self._all.plan.network.forms[index].patches
        count = self._count if patches is None else self._count * len(patches.places)
        shape = (packing.blocks(count), 2, moduli.count + 1, moduli.degree)

        def answer() -> Words:
            assert self._owner is not None and self._integers is not None
            rows = self._integers if patches is None else patches.read(self._integers)
            answers, own = self._owner.answer_input(rows, self._all.weights[index], packing)
            share[...] = own if patches is None else patches.joined(own)
            return pack(answers, moduli.input_primes)

        def finish(words: Words) -> None:
            assert self._buyer is not None
            own = self._buyer.open_input(unpack(words, moduli.input_primes, shape), packing, count)
            share[...] = own if patches is None else patches.joined(own)

        return self._answer(shape[0], packed_words(moduli.input_primes, shape), answer, "he:input"), finish

    def _matrix_answer(self, index: int, i: int, packing: MatrixPacking, share: Words) -> tuple[Item, Any]:
        moduli, form = self._moduli, self._all.plan.network.forms[index]
        shape = (packing.blocks(self._count), 2, moduli.degree)

        def answer() -> Words:
            assert self._owner is not None
            answers, share[i] = self._owner.answer_matrix(
                i, self._joined(i, form), self._all.weights[index][i], packing
            )
            return answers.reshape(-1)

        def finish(words: Words) -> None:
            assert self._buyer is not None
            theirs = self._buyer.open_matrix(i, words.reshape(shape), packing, self._count)
            own = matmul_modulo(self._joined(i, form), self._all.weights[index][i], moduli.primes[i])
            share[i] = (theirs + own) % np.uint64(moduli.primes[i])

        return self._answer(shape[0], math.prod(shape), answer, f"he:{form.layer}"), finish

    def _joined(self, i: int, form: Form) -> Words:
        return np.concatenate([self._atoms[atom][i] for atom in form.atoms], axis=-1)

    def _answer(self, ciphertexts: int, words: int, make: Callable[[], Words], label: str) -> Item:
        self._all.keys.allow(ciphertexts)
        value = sent_by(self._session, self._rank, words, make)
        return Item(label, value, sender=self._rank, to=self._all.buyer_rank)

    def _settle(self, products: Sequence[int], forms: Sequence[int]) -> None:
        """Biases, and forms that are an atom."""
        plan = self._all.plan
        for index in forms:
            form = plan.network.forms[index]
            if form.alias is not None:
                self._forms[index] = self._atoms[form.alias]
            elif self._buyer is not None:
                assert form.bias is not None
                bias = self._moduli.residues(_rounded(form.bias, plan.form_bits[index]))
                primes = np.array(self._moduli.primes, np.uint64)[:, None, None]
                self._forms[index] = (self._forms[index] + bias[:, None]) % primes


def _integer_rows(rows: NetworkRows, start: int, stop: int, bits: int) -> NDArray[np.int64]:
    assert rows.read is not None
    values = rows.read(start, stop).reshape(stop - start, -1)
    # Safety: what is larger than declared would wrap, and come out as garbage that depends on the rows.
    if not np.abs(values).max(initial=0.0) <= rows.limit:
        raise BadData("a value of a row is larger than its column declares, or is not a number")
    return np.rint(np.ldexp(values, bits)).astype(np.int64)


def _rounded(values: Floats, bits: int) -> NDArray[Any]:
    """round(values 2^bits) as Python integers, exact whatever the size."""
    scaled = np.rint(np.ldexp(values, bits))
    return np.array([int(value) for value in scaled.reshape(-1)], object).reshape(values.shape)
