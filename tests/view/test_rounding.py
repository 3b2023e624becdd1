"""Many numbers rounded at once are those of decimals, one by one."""

from __future__ import annotations

import json
import math
import struct
from random import Random

import numpy as np
import pytest

from visit_tl.view.page.rounding import short, shorts


def near_ties(digits):
    """Halves, whole numbers and powers of ten at every size, and what is next to them."""
    for power in range(-25, 26):
        for tens in (1, 10 ** (digits - 1), 10**digits - 1, 10**digits, 123, 999, 105):
            for half in (0.0, 0.5):
                value = (tens + half) * 10.0**power
                yield from (value, value + math.ulp(value), value - math.ulp(value))


@pytest.mark.parametrize("digits", [2, 3])
def test_many_at_once_are_those_of_decimals(digits):
    chance = Random(0)
    values = [*near_ties(digits), 0.0, 5e-324, 1.797e308, math.inf, math.nan]
    values += [struct.unpack("d", chance.randbytes(8))[0] for _ in range(4000)]
    values += [chance.random() * 10 ** chance.randint(-12, 8) for _ in range(4000)]
    values += [float(np.float32(value)) for value in values[-1000:]]
    values += [-value for value in values]
    found = shorts([None, *values], digits)
    expected = [short(value, digits) for value in (None, *values)]
    # As text, for 1 is no 1.0 and 0 no -0.0.
    assert json.dumps(found) == json.dumps(expected)


def test_one_number_has_its_digits_and_is_whole_where_it_can_be():
    assert [short(x) for x in (0.12345, 12345.6, 1e6, 2.0, -0.0)] == [0.123, 12300, 1e6, 2, 0]
    assert [json.dumps(short(x)) for x in (2.0, -0.0, 1e6)] == ["2", "0", "1000000.0"]
    assert short(None) is short(math.nan) is short(math.inf) is None
    assert short(1.7976931348623157e308) == 1.7976931348623157e308
    assert shorts([]) == []
