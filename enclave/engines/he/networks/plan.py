"""The public plan of a polynomial network under encryption: precision, moduli, ring, and what hides the rows.

All values are integers: an atom or form v stands for v 2^-f, exactly, modulo M (see `crossterms`). Rows are rounded to
row_bits fractional bits, coefficients to weight_bits; a form has the fractional bits of its finest atom and
weight_bits more, a product those of both factors together. Nothing is truncated in between, so M must hold the finest
value with its range: that is what depth costs.

    linear, square, linear       70 bits and 29 for the range: M of 2 primes of 50 bits, N = 8192
    two squares                 154 bits and 45 for the range: M of 4 primes, N = 16384
    three, four squares         322 and 658 bits: M of 8 and 16 primes, N = 32768
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from enclave.engines.he.lattice.parameters import MOST_BITS, SECURITY_BITS, Parameters, checked, primes_of
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.networks.crossterms import Moduli
from enclave.engines.he.networks.forms import Form, PolynomialNetwork
from enclave.engines.he.planner import FLOOD, HONEST, MASK, Hiding
from enclave.errors import BadModel, RangeExceeded

__all__ = ["Accuracy", "NetworkPlan", "accuracy", "check_range", "plan_network"]

_PRIME_BITS = 50
_RELEASE_BITS = 20  # fractional bits of what is released
_RELEASE_RANGE_BITS = 40  # bits of the largest released value, and one for its sign
_DEGREES = (8192, 16384, 32768)
_LEAST_PRIMES = 4  # of q: flooding has its 40 bits, and some more
_ROW_BITS, _WEIGHT_BITS = 14, 14
_MOST_WEIGHT_BITS = 20
_RANGE_BITS = (20, 27, 40, 66, 120)  # for the largest value and its sign, by levels of products
_USUAL_MAGNITUDE = 8.0
_FEWEST_ROWS, _MOST_ROWS, _CHUNK_ELEMENTS = 16, 8192, 1 << 20
_HINT = "hybrid or mpc would do: --engine hybrid, or --engine mpc"


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """Everything public about how a network is computed.

    Attributes:
        moduli: primes of M, the first ones of `parameters`.
        form_bits, atom_bits: fractional bits, by index.
    """

    network: PolynomialNetwork
    parameters: Parameters
    moduli: int
    row_bits: int
    weight_bits: int
    form_bits: tuple[int, ...]
    atom_bits: tuple[int, ...]

    @property
    def modulus_bits(self) -> float:
        """log2 M."""
        return sum(math.log2(prime) for prime in self.parameters.primes[: self.moduli])

    @property
    def release_shift(self) -> int:
        """The output is multiplied by 2^this before it is cut: exact, and it leaves _RELEASE_RANGE_BITS for it."""
        return max(0, math.ceil(self.modulus_bits) - self.form_bits[-1] - _RELEASE_RANGE_BITS)

    @property
    def release_bits(self) -> int:
        """Bits of the word that is released for each output; it stands for a part of M."""
        return math.ceil(self.modulus_bits) - self.form_bits[-1] - self.release_shift + _RELEASE_BITS

    @property
    def release_unit(self) -> float:
        """The step between two released values."""
        return math.exp2(self.modulus_bits - self.release_bits - self.form_bits[-1] - self.release_shift)

    def describe(self) -> str:
        """One line for people."""
        sizes = " -> ".join(str(form.size) for form in self.network.forms)
        return (
            f"{self.network.inputs} -> {sizes}, {len(self.network.products)} products: {self.parameters.describe()}, "
            f"numbers of {self.modulus_bits:.0f} bits, rows to 2^-{self.row_bits}, weights to 2^-{self.weight_bits}, "
            f"outputs to 2^{math.log2(self.release_unit):.0f}"
        )

    @property
    def chunk_rows(self) -> int:
        """Rows that are computed at one time, so that memory and messages stay bounded."""
        patches = [form.patches.places.size for form in self.network.forms if form.patches is not None]
        widest = max([form.size for form in self.network.forms] + patches)
        return max(_FEWEST_ROWS, min(_MOST_ROWS, _CHUNK_ELEMENTS // widest))

    def packing(self, form: Form, rows: int) -> MatrixPacking:
        """How a form's matrix and the rows of its atoms lie in polynomials, if all of `rows` are to be scored."""
        if form.patches is not None:
            windows, pixels = form.patches.places.shape
            return MatrixPacking.cheapest(self.parameters.degree, rows * windows, pixels, form.patches.channels)
        inputs = sum(self.network.atom_size(atom) for atom in form.atoms)
        price = 1.5 if form.atoms == (0,) else 1.0
        return MatrixPacking.cheapest(self.parameters.degree, rows, inputs, form.size, price)

    def hiding(self, moduli: Moduli, rows: int) -> tuple[Hiding, ...]:
        """What hides the rows in each kind of answer."""
        found = [
            Hiding("he:input", SECURITY_BITS, f"{MASK}: uniform modulo q on every coefficient, re-randomised (RLWE)")
        ]
        for form in self.network.forms:
            if form.alias is None and form.atoms != (0,):
                bits = moduli.matrix_hiding_bits(self.packing(form, rows))
                found.append(Hiding(f"he:{form.layer}", bits, _FLOODED))
        if self.network.products:
            found.append(Hiding("he:products", moduli.slot_hiding_bits(2), _FLOODED))
        return tuple(found)


_FLOODED = f"{FLOOD}: message under a uniform mask, noise under uniform integers, re-randomised (RLWE), {HONEST}"


def plan_network(network: PolynomialNetwork, magnitude: float = _USUAL_MAGNITUDE) -> NetworkPlan:
    """The smallest parameters that hold the network at a sufficient precision.

    Args:
        magnitude: of the largest value of a row; beyond 8, every doubling takes a bit more for each degree.

    Raises: BadModel: naming the layer that is too wide or too deep.
    """
    form_bits, atom_bits = _fractional(network, _ROW_BITS, _WEIGHT_BITS)
    levels = len(network.stages()) - 1
    growth = max(0.0, math.log2(magnitude / _USUAL_MAGNITUDE))
    range_bits = _RANGE_BITS[min(levels, len(_RANGE_BITS) - 1)] + math.ceil(growth * 2**levels)
    least = max(1, -(-(max(*form_bits, *atom_bits) + range_bits) // _PRIME_BITS))
    for degree in _DEGREES:
        for moduli in range(least, MOST_BITS[degree] // _PRIME_BITS):
            primes = primes_of(degree, [_PRIME_BITS] * max(_LEAST_PRIMES, moduli + 1))
            room = sum(math.log2(prime) for prime in primes[:moduli]) - range_bits
            if max(*form_bits, *atom_bits) <= room and max(form.size for form in network.forms) <= degree:
                weight_bits = _finest_weights(network, room)
                form_bits, atom_bits = _fractional(network, _ROW_BITS, weight_bits)
                parameters = checked("bfv", degree, primes)
                return NetworkPlan(network, parameters, moduli, _ROW_BITS, weight_bits, form_bits, atom_bits)
    raise _refusal(network, form_bits, range_bits)


def _finest_weights(network: PolynomialNetwork, room: float) -> int:
    """As many bits for weights as there is room for."""
    for bits in range(_MOST_WEIGHT_BITS, _WEIGHT_BITS, -1):
        forms, atoms = _fractional(network, _ROW_BITS, bits)
        if max(*forms, *atoms) <= room:
            return bits
    return _WEIGHT_BITS


def _refusal(network: PolynomialNetwork, form_bits: tuple[int, ...], range_bits: int) -> BadModel:
    degree = _DEGREES[-1]
    room = (MOST_BITS[degree] // _PRIME_BITS - 1) * _PRIME_BITS - 1
    for form, bits in zip(network.forms, form_bits, strict=True):
        if form.size > degree:
            return BadModel(f"layer {form.layer!r} has {form.size} outputs, engine he takes {degree}", hint=_HINT)
        if bits + range_bits > room or form is network.output:
            text = f"it needs numbers of {bits + range_bits} bits, engine he has {room}"
            return BadModel(f"layer {form.layer!r} is too deep: {text}", hint=_HINT)
    raise AssertionError("a network has an output")


def _fractional(network: PolynomialNetwork, row_bits: int, weight_bits: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    forms: list[int] = []
    atoms = [row_bits]
    waiting = list(network.products)

    def settle(count: int) -> None:
        while waiting and max(waiting[0].left, waiting[0].right) < count:
            product = waiting.pop(0)
            atoms.append(forms[product.left] + forms[product.right])

    for index, form in enumerate(network.forms):
        settle(index)
        finest = max((atoms[atom] for atom in form.atoms), default=row_bits)
        forms.append(finest if form.alias is not None else finest + weight_bits)
    settle(len(forms))
    return tuple(forms), tuple(atoms)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the buyer knows of a network before it runs.

    Attributes:
        bounds: the largest |value| of each form, by index.
        error: a bound on |released - float64 network|, for any row within the declared bounds.
    """

    bounds: tuple[float, ...]
    error: float


def accuracy(plan: NetworkPlan, row_bounds: np.ndarray) -> Accuracy:
    """Interval arithmetic through the network, with its weights: |v| and |v computed - v|, element by element.

    A rounded row is off by 2^-(row_bits + 1), a coefficient by half a unit of its form's fractional bits over those of
    the atom, a mask's rounding by at most 2 units.
    """
    network = plan.network
    bounds = [np.asarray(row_bounds, np.float64).reshape(-1)]
    errors = [np.full(network.inputs, 2.0 ** -(plan.row_bits + 1))]
    forms: list[tuple[np.ndarray, np.ndarray]] = []
    waiting = list(network.products)

    def settle(count: int) -> None:
        while waiting and max(waiting[0].left, waiting[0].right) < count:
            product = waiting.pop(0)
            (a, da), (b, db) = forms[product.left], forms[product.right]
            bounds.append(a * b)
            errors.append(a * db + b * da + da * db)

    for index, form in enumerate(network.forms):
        settle(index)
        assert form.parts is not None and form.bias is not None
        bound, error = np.abs(form.bias), np.full(form.size, 2.5 * 2.0 ** -plan.form_bits[index])
        for atom in form.atoms:
            part = np.abs(form.parts[atom])
            rounding = 2.0 ** -(plan.form_bits[index] - plan.atom_bits[atom] + 1)
            bound = bound + bounds[atom] @ part
            error = error + errors[atom] @ part
            if form.alias is None:
                error = error + rounding * float((bounds[atom] + errors[atom]).sum())
        forms.append((bound, error))
        settle(index + 1)
    worst = float(forms[-1][1].max()) + 2.0 * plan.release_unit
    return Accuracy(tuple(float(bound.max()) for bound, _ in forms), worst)


def check_range(plan: NetworkPlan, row_bounds: np.ndarray, spread: float = 1.0) -> Accuracy:
    """Raises RangeExceeded, naming the layer, when a value could leave the numbers modulo M; the buyer asks before.

    Args:
        spread: what becomes of outputs is up to so many times as large.
    """
    found = accuracy(plan, row_bounds)
    for form, bits, bound in zip(plan.network.forms, plan.form_bits, found.bounds, strict=True):
        limit = 2.0 ** (plan.modulus_bits - bits - 1)
        if form is plan.network.output:
            limit /= 2.0**plan.release_shift * spread
        if not bound < limit:
            raise RangeExceeded(form.layer, bound, limit)
    for product, bits in zip(plan.network.products, plan.atom_bits[1:], strict=True):
        bound = found.bounds[product.left] * found.bounds[product.right]
        limit = 2.0 ** (plan.modulus_bits - bits - 1)
        if not bound < limit:
            raise RangeExceeded(f"the product of {plan.network.forms[product.left].layer}", bound, limit)
    return found
