"""The regression function of 2405.13997, sum_i gate_i(x) h(a_i x + b_i) on the line, with its Jacobian.

All arrays are float64; ``R`` fits are computed at once. Parameters are [R, experts, 4]: slope and intercept of the
gate, slope and intercept of the expert.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Gate = Literal["sigmoid", "softmax"]
Expert = Literal["relu", "linear"]

GATES: tuple[Gate, ...] = ("sigmoid", "softmax")
EXPERTS: tuple[Expert, ...] = ("relu", "linear")


def predict(parameters: Array, x: Array, gate: Gate, expert: Expert) -> Array:
    """Values [R, n] at the points ``x`` [R, n]."""
    weight, output, _ = _parts(parameters, x, gate, expert)
    value: Array = (weight * output).sum(axis=1)
    return value


def linearise(parameters: Array, x: Array, gate: Gate, expert: Expert) -> tuple[Array, Array]:
    """Values [R, n] and their Jacobian [R, experts * 4, n]."""
    weight, output, active = _parts(parameters, x, gate, expert)
    value = (weight * output).sum(axis=1)
    # d value / d gate logit: only its own gate for sigmoids, against the common mean for a softmax.
    steep = weight * (1 - weight) * output if gate == "sigmoid" else weight * (output - value[:, None, :])
    inside, at = weight * active, x[:, None, :]
    jacobian = np.stack([steep * at, steep, inside * at, inside], axis=2)
    return value, jacobian.reshape(x.shape[0], -1, x.shape[1])


def _parts(parameters: Array, x: Array, gate: Gate, expert: Expert) -> tuple[Array, Array, Array]:
    slope, intercept, a, b = (parameters[:, :, place, None] for place in range(4))
    at = x[:, None, :]
    inner = a * at + b
    active = (inner > 0).astype(np.float64) if expert == "relu" else np.ones_like(inner)
    return gates(slope * at + intercept, gate), inner * active, active


def gates(logits: Array, gate: Gate) -> Array:
    """Gate weights [R, experts, n] of gate logits of that shape."""
    if gate == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
