"""How far a fit is from the truth: the Voronoi loss, and the distance of the worst true expert."""

import numpy as np

from benchmarks.efficiency.regression import Array, Gate, gates

_GRID = np.linspace(-3, 3, 241)
"""Where the mean gate weight is taken: the inputs are uniform between its ends."""


def distances(fitted: Array, truth: Array) -> Array:
    """Euclidean distance [R, fitted, true] of the experts' own parameters (slope, intercept)."""
    found: Array = np.linalg.norm(fitted[:, :, None, 2:] - truth[None, None, :, 2:], axis=-1)
    return found


def voronoi_loss(fitted: Array, truth: Array, gate: Gate) -> Array:
    """The Voronoi loss [R] of docs/science.md D, over the experts' parameters eta = (slope, intercept).

    Every fitted expert i belongs to the cell of the true expert j that is nearest to it. With w_i its mean gate weight
    and d_ij the distance of eta: a cell of one fitted expert adds w_i d_ij, a cell of several adds the sum of
    w_i d_ij^2, and an empty cell the distance of its nearest fitted expert. Gate parameters are left out: those of a
    softmax are known up to a common shift only.

    Args:
        fitted: [R, experts, 4] fitted parameters.
        truth: [true experts, 4].
        gate: kind of gate.

    """
    between = distances(fitted, truth)
    home = between.argmin(axis=2)
    weight = gates(fitted[:, :, 0, None] * _GRID + fitted[:, :, 1, None], gate).mean(axis=2)
    loss = np.zeros(len(fitted))
    for j in range(truth.shape[0]):
        inside = home == j
        many = inside.sum(axis=1)
        first = (weight * between[:, :, j] * inside).sum(axis=1)
        second = (weight * np.square(between[:, :, j]) * inside).sum(axis=1)
        loss += np.where(many > 1, second, np.where(many == 1, first, between[:, :, j].min(axis=1)))
    return loss


def worst_expert(fitted: Array, truth: Array) -> Array:
    """Distance [R] of the true expert that is found worst from the fitted expert nearest to it."""
    found: Array = distances(fitted, truth).min(axis=1).max(axis=1)
    return found


def idle_expert(fitted: Array, truth: Array) -> Array:
    """Distance [R] of the fitted expert that is farthest from every true one: where the one too many went."""
    found: Array = distances(fitted, truth).min(axis=2).max(axis=1)
    return found
