"""What a dtype's name means for the numbers held in it."""

import math

_SIGNIFICANT_BITS = {"bfloat16": 8, "float16": 11}
_SMALLEST_STEP = {"bfloat16": 2.0**-133, "float16": 2.0**-24}


def plain_name(dtype: str | None) -> str | None:
    """``bfloat16`` for ``torch.bfloat16``."""
    return dtype.rpartition(".")[2] if dtype else None


def is_16bit(dtype: str | None) -> bool:
    """Whether numbers of this dtype have 16 bits."""
    return plain_name(dtype) in _SIGNIFICANT_BITS


def step(dtype: str, value: float) -> float:
    """Distance from ``value`` to the next larger number of a 16-bit dtype (the unit in the last place)."""
    name = plain_name(dtype) or ""
    if value == 0:
        return _SMALLEST_STEP[name]
    exponent = math.frexp(abs(value))[1] - _SIGNIFICANT_BITS[name]
    return float(max(2.0**exponent, _SMALLEST_STEP[name]))
