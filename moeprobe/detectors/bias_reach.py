"""A selection bias that no training reaches: the numbers are not those that were saved."""

from typing import TYPE_CHECKING

import numpy as np

from moeprobe.detectors.case import Case
from moeprobe.detectors.wording import listed, number
from moeprobe.findings.router import Bias

if TYPE_CHECKING:
    from moeprobe.detectors.bias_runaway import BiasRunawayLimits

BEYOND = "the selection bias is beyond what training reaches"
_SMALLEST = float(np.finfo(np.float32).tiny)


def find_beyond(case: "Case[BiasRunawayLimits]", bias: Bias) -> bool:
    """Find biases that differ by more than any update rule moves them; whatever the score function, no score counts.

    Returns:
        Whether there are some; then nothing else can be said about this bias.

    """
    values = np.asarray(bias.values, dtype=np.float64)
    spread = float(values.max() - values.min())
    if spread <= case.limits.spread_error:
        return False
    # The lower median: of two halves, the one of the smaller numbers is the one that could be a bias.
    usual = np.sort(values)[(len(values) - 1) // 2]
    far = [int(expert) for expert in np.flatnonzero(np.abs(values - usual) > case.limits.spread_error / 2)]
    tiny = int(((values != 0) & (np.abs(values) < _SMALLEST)).sum())
    denormal = f", and {tiny} of them are denormal numbers" if tiny else ""
    case.weigh()
    case.find(
        "error",
        f"the selection bias differs by {number(spread)} between experts{denormal} (the limit is "
        f"{number(case.limits.spread_error)}, and scores differ by about 1): the bytes of {listed(far, 'expert')} were "
        "read as another dtype, or are damaged",
        quantity="spread of the selection bias",
        measured=spread,
        limit="spread_error",
        cause=BEYOND,
        remedy="Restore the bias from the base checkpoint, in float32",
        experts=far,
    )
    return True
