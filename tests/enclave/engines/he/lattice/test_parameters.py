"""The 128-bit table: what fits is taken, one bit more is refused, by us and by SEAL."""

import pytest

from enclave.engines.he.lattice import parameters
from enclave.engines.he.lattice.parameters import MOST_BITS, checked, primes_of
from enclave.errors import BadInput


def _sizes(total: int) -> list[int]:
    count = -(-total // 50)
    return [total // count + (i < total % count) for i in range(count)]


@pytest.mark.parametrize("degree", MOST_BITS)
def test_the_table_is_reached_and_one_bit_more_is_refused_here_and_by_seal(degree: int) -> None:
    most = MOST_BITS[degree]
    fits = primes_of(degree, _sizes(most))
    assert checked("bfv", degree, fits).total_bits == most
    above = primes_of(degree, _sizes(most + 1))
    with pytest.raises(BadInput, match=f"expected at most {most} bits of primes .* found {most + 1}"):
        checked("bfv", degree, above)
    assert parameters._verdict(degree, fits) == ""
    assert "security" in parameters._verdict(degree, above)


def test_what_seal_alone_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "_verdict", lambda degree, primes: "insecure")
    with pytest.raises(BadInput, match="expected parameters that SEAL accepts, found: insecure"):
        checked("bfv", 4096, primes_of(4096, (40,)))


def test_the_special_prime_counts() -> None:
    primes, special = primes_of(4096, (40, 40)), primes_of(4096, (45,))[0]
    assert checked("bfv", 4096, primes).total_bits == 80
    with pytest.raises(BadInput, match=r"at most 109 bits .* found 125"):
        checked("bfv", 4096, primes, special)


@pytest.mark.parametrize(
    ("scheme", "degree", "primes", "special", "words"),
    [
        ("tfhe", 4096, primes_of(4096, (40,)), None, "expected a scheme"),
        ("bfv", 4000, primes_of(4096, (40,)), None, "expected a degree"),
        ("bfv", 65536, primes_of(4096, (40,)), None, "expected a degree"),
        ("bfv", 4096, (), None, "at least one data prime"),
        ("bfv", 4096, primes_of(4096, (40,)) * 2, None, "different primes"),
        ("bfv", 4096, primes_of(4096, (40,)), primes_of(4096, (40,))[0], "different primes"),
        ("bfv", 4096, (1099511627689,), None, "1 modulo 8192"),
        ("bfv", 4096, (8193,), None, "prime"),
        ("bfv", 4096, primes_of(4096, (40,)), primes_of(4096, (30,))[0], "special prime of at least 40 bits"),
    ],
)
def test_wrong_parameters_are_refused_by_name(
    scheme: str, degree: int, primes: tuple[int, ...], special: int | None, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        checked(scheme, degree, primes, special)


def test_primes_of_one_size_differ_and_keep_their_order() -> None:
    primes = primes_of(8192, (40, 30, 40, 30))
    assert [p.bit_length() for p in primes] == [40, 30, 40, 30]
    assert len(set(primes)) == 4 and all(p % 16384 == 1 for p in primes)
    with pytest.raises(BadInput, match="expected 3 primes of 15 bits"):
        primes_of(8192, (15, 15, 15))


def test_parameters_describe_themselves() -> None:
    found = checked("bfv", 8192, primes_of(8192, (40, 40)), primes_of(8192, (50,))[0])
    assert found.describe() == "bfv N=8192 [40+40|50] 130 of 218 bits"
    assert found.key_ring().primes == found.key_primes and found.ring().primes == found.primes
