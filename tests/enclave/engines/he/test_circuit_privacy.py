"""What the key holder can learn from an answer: each attack succeeds without its guard and gets nothing with it.

One column, so that the attacks are exact: the answer is x Enc(w), the key holder knows w, its own error e, and s.
"""

import numpy as np
import pytest

from enclave.engines.he.lattice.keys import Domain, PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.ring import Ring
from enclave.engines.he.lattice.rlwe import encrypt_zero
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.planner import LinearWork, plan_linear
from enclave.engines.mpc.random import KeyStream

WORK = LinearWork(columns=1, row_magnitude=8.0, weight_magnitude=1.0, precision=2e-3)
PLAN = plan_linear(WORK)
RING = PLAN.parameters.ring()
N = RING.degree
SEED = PublicSeed.derived(b"privacy")


class Scene:
    """A key holder that knows everything of its own, and an owner with one column of rows."""

    def __init__(self) -> None:
        self.key = SecretKey(RING, Source.fresh(), 100)
        self.source = Source.fresh()
        self.public = PublicKey.generate(self.key, RING, SEED)
        rng = np.random.default_rng(0)
        self.rows = rng.integers(-PLAN.row_limit, PLAN.row_limit + 1, N)
        self.a = RING.ntt(SEED.uniform(RING, Domain.MESSAGES, 0, 1)[0])
        self.e = self.key.source.error(N)
        weight = RING.from_torus(np.full(N, 1 << 40, np.uint64), 64)  # any known phase
        self.weight = RING.ntt(weight * (np.arange(N) == 0).astype(np.uint64))
        noise = RING.ntt(RING.from_integers(self.e))
        b = RING.sub(RING.add(self.weight, noise), RING.multiply(self.a, self.key.reveal(RING)))
        x = RING.encode(self.rows)
        self.bare = RING.intt(np.stack((RING.multiply(b, x), RING.multiply(self.a, x))))

    def answer(self, *, randomised: bool, flood: str) -> np.ndarray:
        """The owner's answer, with or without its guards."""
        out = self.bare
        if randomised:
            out = RING.add(out, encrypt_zero(self.public, self.source))
        if flood == "planned":
            out[0] = RING.add(out[0], self.source.integers(RING, PLAN.flood_bits))
        if flood == "mask":
            out[0] = RING.add(out[0], self.source.uniform(RING))
        return out


def divided(scene: Scene, answer: np.ndarray) -> float:
    """Share of the rows that c1 / a gives."""
    quotient = RING.multiply(RING.ntt(answer[1]), _inverse(scene.a, RING))
    return float(np.mean(RING.to_integers(RING.intt(quotient)) == scene.rows))


def deconvolved(scene: Scene, answer: np.ndarray) -> tuple[float, float]:
    """From the phase less w times the rounded score: correlation of (noise / e) with the rows, share of rows hit."""
    phase = RING.add(answer[0], RING.intt(RING.multiply(RING.ntt(answer[1]), scene.key.reveal(RING))))
    score = RING.intt(RING.multiply(scene.weight, RING.encode(scene.rows)))  # what is released anyway
    noise = RING.to_integers(RING.sub(phase, score)).astype(float)
    found = _negacyclic_quotient(noise, scene.e.astype(float))
    return float(np.corrcoef(found, scene.rows)[0, 1]), float(np.mean(np.abs(found - scene.rows) < 0.5))


def _inverse(x: np.ndarray, ring: Ring) -> np.ndarray:
    return np.array([[pow(v, -1, p) for v in row.tolist()] for row, p in zip(x, ring.primes, strict=True)], np.uint64)


def _negacyclic_quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    twist = np.exp(1j * np.pi * np.arange(N) / N)
    top, bottom = np.fft.fft(x * twist), np.fft.fft(y * twist)
    return (np.fft.ifft(top * np.conj(bottom) / np.maximum(np.abs(bottom) ** 2, 1e-9)) * np.conj(twist)).real


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    ("randomised", "flood", "division", "noise"),
    [
        (False, "none", True, True),
        (True, "none", False, True),
        (False, "planned", True, False),
        (False, "mask", True, False),
        (True, "planned", False, False),
        (True, "mask", False, False),
    ],
)
def test_both_guards_are_needed_and_together_enough(
    scene: Scene, randomised: bool, flood: str, division: bool, noise: bool
) -> None:
    answer = scene.answer(randomised=randomised, flood=flood)
    hits = divided(scene, answer)
    assert hits == 1.0 if division else hits < 0.001
    correlation, found = deconvolved(scene, answer)
    if noise:
        assert correlation > 0.5 and found > 0.001
    else:
        assert abs(correlation) < 6 / np.sqrt(N) and found < 0.001


def test_rows_of_zeros_give_an_answer_like_any_other(scene: Scene) -> None:
    zeros = RING.add(np.zeros_like(scene.bare), encrypt_zero(scene.public, scene.source))
    zeros[0] = RING.add(zeros[0], scene.source.integers(RING, PLAN.flood_bits))
    assert len(np.unique(zeros[1, 0])) > 0.99 * N  # SEAL refuses to send a c1 of zeros, and it would show the rows
    phase = RING.add(zeros[0], RING.intt(RING.multiply(RING.ntt(zeros[1]), scene.key.reveal(RING))))
    assert np.abs(RING.to_integers(phase).astype(float)).max() < 1.01 * 2.0 ** (PLAN.flood_bits - 1)


def test_attack_a_public_key_with_a_of_zeros_would_undo_the_re_randomisation(scene: Scene) -> None:
    crafted = PublicKey(RING, scene.public.b, SEED)
    crafted.a = np.zeros_like(crafted.a)  # what a key holder would send, if `a` travelled
    answer = RING.add(scene.bare, encrypt_zero(crafted, scene.source))
    error = RING.to_integers(RING.sub(answer[1], scene.bare[1]))
    assert np.abs(error.astype(float)).max() <= 21  # all that is left of the zero is its error
    honest = RING.add(scene.bare, encrypt_zero(scene.public, scene.source))
    assert np.abs(RING.to_integers(RING.sub(honest[1], scene.bare[1])).astype(float)).max() > RING.modulus / 4
    assert (PublicKey(RING, np.zeros_like(scene.public.b), SEED).a == scene.public.a).all()  # whoever made b


def test_attack_errors_drawn_twice_give_away_the_key() -> None:
    stream = KeyStream(bytes(16))
    key = SecretKey(RING, Source.fresh(), 1)

    def zero(source: Source, number: int) -> tuple[np.ndarray, np.ndarray]:
        a = SEED.uniform(RING, Domain.MESSAGES, number, 1)[0]
        b = RING.sub(RING.ntt(RING.from_integers(source.error(N))), RING.multiply(a, key.reveal(RING)))
        return b, a

    def stolen(first: Source, second: Source) -> bool:
        (b0, a0), (b1, a1) = zero(first, 0), zero(second, 1)
        found = RING.multiply(RING.sub(b0, b1), _inverse(RING.sub(a1, a0), RING))
        return bool((found == key.reveal(RING)).all())

    assert stolen(Source(stream), Source(stream))  # two sources on one stream
    source = Source(stream)
    assert not stolen(source, source)
