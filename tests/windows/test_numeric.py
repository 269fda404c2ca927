"""Own arithmetic against exact arithmetic and, within an ulp, against libm."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from lookback.windows.numeric import LIMBS, exp2_neg, float_128, ln, super_add, super_value


def test_ln_is_within_an_ulp_and_has_its_edges() -> None:
    rng = random.Random(1)
    x = np.array(
        [math.exp(rng.uniform(-700, 700)) for _ in range(5000)] + [rng.uniform(0.5, 2) for _ in range(5000)]
    )
    got = ln(x)
    assert all(abs(a - math.log(b)) <= math.ulp(math.log(b)) for a, b in zip(got, x, strict=True))
    edges = ln(np.array([1.0, 0.0, 5e-324, math.inf, -1.0]))
    assert edges[:4].tolist() == [0.0, -math.inf, math.log(5e-324), math.inf] and math.isnan(edges[4])
    assert ln(x.reshape(100, 100)).shape == (100, 100)


def test_exp2_neg_is_exact_for_whole_numbers_and_within_an_ulp() -> None:
    rng = random.Random(2)
    assert [exp2_neg(float(n)) for n in (0, 1, 52, 1022, 1074)] == [2.0**-n for n in (0, 1, 52, 1022, 1074)]
    assert exp2_neg(1080.0) == exp2_neg(1e300) == 0.0
    for x in [rng.uniform(0, 1) for _ in range(2000)] + [rng.uniform(0, 1073) for _ in range(2000)]:
        assert abs(exp2_neg(x) - 2.0**-x) <= math.ulp(2.0**-x)


def test_float_of_128_bits_rounds_to_nearest() -> None:
    rng = random.Random(3)
    ties = [2**53 + 1, 2**54 + 2, 2**117 + 2**64, 2**126 + 2**73 + 1, -(2**127), 2**127 - 1, 0]
    for value in ties + [rng.randint(-(2**127), 2**127 - 1) >> rng.randint(0, 126) for _ in range(3000)]:
        low = value & (2**64 - 1)
        assert float_128(low - 2**64 if low >= 2**63 else low, value >> 64) == float(value)


@pytest.mark.parametrize("span", [0, 5, 300, 1020])
def test_superaccumulator_is_exact_and_has_no_memory_of_order(span: int) -> None:
    rng = random.Random(span)
    for _ in range(150):
        terms = [math.ldexp(rng.uniform(-1, 1), rng.randint(-span, span)) for _ in range(rng.randint(1, 20))]
        terms += [-x for x in terms[: rng.randint(0, len(terms))]] + [5e-324] * (span == 1020)
        limbs, again = np.zeros(LIMBS, dtype=np.int64), np.zeros(LIMBS, dtype=np.int64)
        for x in terms:
            super_add(limbs, 0, x, 1)
        for x in rng.sample(terms, len(terms)):
            super_add(again, 0, x, 1)
        assert (limbs == again).all()
        assert super_value(limbs, 0) == float(sum(map(Fraction, terms)))


def test_superaccumulator_says_when_the_total_leaves_the_floats() -> None:
    limbs = np.zeros(LIMBS, dtype=np.int64)
    for sign, total in (
        (1, 1.7e308),
        (1, math.inf),
        (-1, 1.7e308),
        (-1, 0.0),
        (-1, -1.7e308),
        (-1, -math.inf),
    ):
        super_add(limbs, 0, 1.7e308, sign)
        assert super_value(limbs, 0) == total
