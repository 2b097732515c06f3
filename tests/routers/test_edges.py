"""The numeric edges of docs/science.md B0, as torch computes them here: the detectors rest on these numbers."""

import pytest
import torch

from moeprobe.detectors.scores import SQRT_SOFTPLUS_EDGES
from moeprobe.routers.rule import scores
from moeprobe.statistics.logits import CLAMP_EDGE, NAIVE_EDGE


def at(value: float, dtype: torch.dtype) -> torch.Tensor:
    """Enough equal values for the vectorised kernels, which differ from the scalar ones."""
    return torch.full((64,), value, dtype=dtype)


def above(value: float, dtype: torch.dtype) -> float:
    """The next number of this dtype towards zero, a little further for float32."""
    step = torch.finfo(dtype).eps * abs(value)
    return value + (2e-3 if dtype == torch.float32 else step)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("name", DTYPES)
def test_sqrt_softplus_is_zero_from_the_edge_on(name: str) -> None:
    dtype, edge = DTYPES[name], SQRT_SOFTPLUS_EDGES[name]
    assert bool((scores(at(edge - 1e-3 * (name == "float32"), dtype), "sqrtsoftplus") == 0).all())
    assert bool((scores(at(above(edge, dtype), dtype), "sqrtsoftplus") > 0).all())


@pytest.mark.parametrize(("name", "edge"), [("float32", -16.63553), ("bfloat16", -5.5625), ("float16", -7.625)])
def test_naive_softplus(name: str, edge: float) -> None:
    def naive(value: float) -> torch.Tensor:
        return torch.log(1 + torch.exp(at(value, DTYPES[name])))

    assert bool((naive(edge - 1e-4) == 0).all())
    assert bool((naive(above(edge, DTYPES[name])) > 0).all())
    assert name != "float32" or edge == NAIVE_EDGE


@pytest.mark.parametrize(("name", "edge"), [("float32", -88.7228), ("bfloat16", -89.0), ("float16", -17.34375)])
def test_sigmoid_is_zero(name: str, edge: float) -> None:
    dtype = DTYPES[name]
    assert bool((at(edge - 1e-3 * (name == "float32"), dtype).sigmoid() == 0).all())
    assert bool((at(above(edge, dtype), dtype).sigmoid() > 0).all())


@pytest.mark.parametrize(("name", "edge"), [("float32", 16.6356), ("bfloat16", 6.25), ("float16", 8.3203)])
def test_sigmoid_is_one(name: str, edge: float) -> None:
    dtype = DTYPES[name]
    assert bool((at(edge, dtype).sigmoid() == 1).all())
    assert bool((at(edge * (1 - 4 * torch.finfo(dtype).eps) - 1e-3, dtype).sigmoid() < 1).all())


def test_the_clamp_edge() -> None:
    assert float(torch.nn.functional.softplus(torch.tensor(CLAMP_EDGE))) == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize(
    ("function", "k", "logit", "expected"),
    [
        ("sqrtsoftplus", 6, -88, 0.98), ("sqrtsoftplus", 6, -90, 0.94), ("sqrtsoftplus", 6, -94, 0.70),
        ("sqrtsoftplus", 6, -100, 0.10), ("sigmoid", 8, -44, 0.984), ("sigmoid", 8, -46, 0.894),
        ("sigmoid", 8, -48, 0.533), ("sigmoid", 8, -50, 0.134),
    ],
)  # fmt: skip
def test_weights_fade_before_the_scores_are_zero(function: str, k: int, logit: float, expected: float) -> None:
    """With an epsilon of 1e-20 the weights of k equal scores sum to less than 1."""
    chosen = scores(torch.full((k,), float(logit)), function)
    assert float((chosen / (chosen.sum() + 1e-20)).sum()) == pytest.approx(expected, abs=0.006)


def test_the_epsilon_is_zero_in_float16() -> None:
    chosen = scores(at(-18, torch.float16), "sqrtsoftplus")
    assert bool((chosen / (chosen.sum() + 1e-20)).isnan().all())


def test_gradient_of_an_unselected_score_is_nan() -> None:
    for dtype, logit in ((torch.float32, -104.5), (torch.bfloat16, -95.0), (torch.float16, -18.0)):
        logits = at(logit, dtype).requires_grad_()
        (gradient,) = torch.autograd.grad((scores(logits, "sqrtsoftplus") * 0).sum(), logits)
        assert bool(gradient.isnan().all())
