"""Least squares for many data sets at once: Levenberg and Marquardt on the normal equations.

scipy's ``least_squares`` fits one data set at a time through a factorisation of the whole Jacobian, [n, 12]; here n is
large, the parameters are few, and the normal equations of all data sets are one matrix product.
"""

import numpy as np

from benchmarks.efficiency.regression import Array, Expert, Gate, linearise, predict

_LEAST, _MOST = 1e-12, 1e8
"""Of the damping."""


def cost(parameters: Array, x: Array, y: Array, gate: Gate, expert: Expert) -> Array:
    """Mean squared residual [R]."""
    found: Array = np.square(predict(parameters, x, gate, expert) - y).mean(axis=1)
    return found


def fit(
    start: Array, x: Array, y: Array, gate: Gate, expert: Expert, *, steps: int, tolerance: float = 1e-9
) -> tuple[Array, Array]:
    """Least-squares parameters [R, experts, 4] from ``start``, and their mean squared residual [R].

    A fit ends when an accepted step gains less than ``tolerance`` of the residual, or its damping cannot grow.

    Args:
        start: [R, experts, 4] where the fits begin.
        x, y: [R, n] data.
        gate, expert: kind of gate and of expert.
        steps: at most so many Jacobians.
        tolerance: relative gain that counts as none.

    """
    best, loss = start.copy(), cost(start, x, y, gate, expert)
    damping = np.full(len(start), 1e-3)
    running = np.arange(len(start))
    eye = np.eye(start.shape[1] * start.shape[2])
    for _ in range(steps):
        if not len(running):
            break
        at, to = x[running], y[running]
        value, jacobian = linearise(best[running], at, gate, expert)
        normal = jacobian @ jacobian.transpose(0, 2, 1) / at.shape[1]
        gradient = (jacobian @ (to - value)[:, :, None])[:, :, 0] / at.shape[1]
        # A parameter that nothing depends on (an expert that never fires) has a zero on the diagonal.
        scale = np.einsum("rii->ri", normal) + 1e-9
        step = np.linalg.solve(normal + (damping[running, None] * scale)[:, :, None] * eye, gradient[:, :, None])
        tried = best[running] + step.reshape(best[running].shape)
        new = cost(tried, at, to, gate, expert)
        good = new < loss[running]
        gain = np.where(good, 1 - new / loss[running], np.inf)
        best[running[good]], loss[running[good]] = tried[good], new[good]
        damping[running] = np.where(good, damping[running] / 3, damping[running] * 4).clip(_LEAST, None)
        running = running[(gain > tolerance) & (damping[running] < _MOST)]
    return best, loss
