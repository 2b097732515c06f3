"""sqrt-nan judges what is not finite, what fades and what lies near the edge."""

import math

import pytest

from moeprobe.detectors import nonfinite_tensors, sqrt_nan
from moeprobe.detectors.scores import SQRT_SOFTPLUS_EDGES, sqrt_softplus
from moeprobe.findings.evidence import Backward, Experiments
from moeprobe.findings.router import Arithmetic, Declared
from moeprobe.findings.weights import NormGain

from .synthetic import EXPERTS, bias, gate, hashed, learned, logits, magnitudes, problems, run, weights

NAME = "sqrt-nan"


def in_dtype(dtype: str) -> dict:
    return {"arithmetic": Arithmetic(product=dtype, score=dtype, selection=dtype, weights=dtype)}


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "sqrtsoftplus", None])
def test_a_healthy_router_is_clean(function: str | None) -> None:
    checks, findings = run(NAME, learned(function=function), hashed(1))
    assert findings == []
    assert [check.verdict for check in checks] == ["clean", "clean"]
    assert "none in 8,192 tokens, so below 1 in 2,730 (95 %)" in checks[0].reason


@pytest.mark.parametrize(
    ("shown", "cause"),
    [
        ({"logits": logits(nonfinite=2), "weights": weights(nonfinite=2)}, sqrt_nan.NONFINITE_LOGITS),
        ({"weights": weights(nonfinite=2)}, sqrt_nan.NONFINITE_WEIGHTS),
        ({"weights": weights(nonfinite=2, smallest_chosen_score=0.0)}, sqrt_nan.ZERO_BY_ZERO),
        ({"magnitudes": magnitudes(routed_nonfinite=2)}, sqrt_nan.NONFINITE_OUTPUT),
    ],
)
def test_the_earliest_stage_that_is_not_finite(shown: dict, cause: str) -> None:
    _, findings = run(NAME, learned(**shown))
    assert problems(findings) == [("error", cause)]
    assert findings[0].measured == 2


@pytest.mark.parametrize("hash_layer", [False, True])
def test_tensors_that_are_not_finite_are_the_root(hash_layer: bool) -> None:
    rows = gate(nonfinite_rows=[2, 7])
    for shown in (None, {"logits": logits(nonfinite=9), "weights": weights(nonfinite=9)}):
        router = (hashed() if hash_layer else learned(**(shown or {}))).model_copy(update={"weights": rows})
        if shown is None:
            router = router.model_copy(update={"activations": None})
        checks, findings = run(NAME, router)
        assert problems(findings) == [("error", nonfinite_tensors.NONFINITE_GATE)]
        assert (findings[0].experts, findings[0].measured) == ([2, 7], 2)
        assert checks[0].weighed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logit_bias_that_is_not_finite(value: float) -> None:
    values = [0.0] * EXPERTS
    values[3] = value
    for weights_only in (True, False):
        _, findings = run(NAME, learned(facts={"logit_bias": bias(values)}, weights_only=weights_only))
        assert problems(findings) == [("error", nonfinite_tensors.NONFINITE_BIAS)]
        assert findings[0].experts == [3]


@pytest.mark.parametrize(
    ("dtype", "smallest", "fires"),
    [
        ("float32", 0.9989, True),
        ("float32", 0.99901, False),
        ("bfloat16", 1 - 2**-6 - 1e-6, True),
        ("bfloat16", 1 - 2**-6, False),
        ("float16", 0.99, False),
    ],
)
def test_weights_that_fade(dtype: str, smallest: float, fires: bool) -> None:
    faded = weights(promise_smallest=smallest, broken_promises=3, smallest_chosen_score=1e-20)
    _, findings = run(NAME, learned(facts=in_dtype(dtype), weights=faded))
    assert problems(findings) == ([("error", sqrt_nan.FADED)] if fires else [])


def test_other_broken_promises_are_not_reported_here() -> None:
    constant = weights(promise_smallest=0.4, promise_largest=0.4)
    rule = weights(promise_smallest=0.3, promise_largest=0.9)
    lost_norm = {"renormalised": False, "declared": Declared(renormalised=True)}
    assert run(NAME, learned(weights=constant))[1] == []
    assert run(NAME, learned(weights=rule))[1] == []
    assert run(NAME, learned(facts=lost_norm, weights=rule))[1] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_edge_of_every_dtype(dtype: str) -> None:
    edge = SQRT_SOFTPLUS_EDGES[dtype]
    for value, expected in (
        (edge, [("error", sqrt_nan.NAN_GRADIENT)]),
        (edge * 0.999, [("warning", sqrt_nan.NEAR_EDGE)]),
        (edge * 0.8, [("warning", sqrt_nan.NEAR_EDGE)]),
        (edge * 0.799, []),
    ):
        router = learned(function="sqrtsoftplus", facts=in_dtype(dtype), logits=logits(smallest=value))
        assert problems(run(NAME, router)[1]) == expected
        # A hash layer chooses without looking, but its gate has the same gradient.
        if dtype == "float32":
            assert problems(run(NAME, hashed(logits=logits(smallest=value)))[1]) == expected


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
def test_functions_without_a_root_have_no_edge(function: str) -> None:
    low = learned(function=function, facts=in_dtype("bfloat16"), logits=logits(smallest=-200.0))
    assert run(NAME, low)[1] == []


def tried(tokens: int, nonfinite: int = 0, experts: list[int] | None = None) -> Experiments:
    backward = Backward(tokens=tokens, nonfinite=nonfinite, experts=experts or [])
    return Experiments(gradient={learned().router.path: backward})


def test_the_backward_pass_decides() -> None:
    below = learned(function="sqrtsoftplus", logits=logits(smallest=-110.0))
    _, findings = run(NAME, below, experiments=tried(3, 128, [3]))
    assert problems(findings) == [("error", sqrt_nan.NAN_GRADIENT)]
    assert (findings[0].measured, findings[0].experts) == (128, [3])
    assert "on 3 tokens with a score of zero" in findings[0].message
    checks, findings = run(NAME, below, experiments=tried(3))
    assert problems(findings) == [("warning", sqrt_nan.GUARDED)]
    assert "stayed finite on 3 tokens" in checks[0].reason
    _, findings = run(NAME, learned(), experiments=tried(3, 5))
    assert problems(findings) == [("error", sqrt_nan.BROKEN_BACKWARD)]
    # Where the forward pass is broken already, the gradient says nothing new.
    broken = learned(function="sqrtsoftplus", logits=logits(nonfinite=1))
    _, findings = run(NAME, broken, experiments=tried(3, 5))
    assert problems(findings) == [("error", sqrt_nan.NONFINITE_LOGITS)]


def test_not_run_and_not_needed_differ() -> None:
    below = learned(function="sqrtsoftplus", logits=logits(smallest=-103.0))
    checks, findings = run(NAME, below)
    assert problems(findings) == [("error", sqrt_nan.NAN_GRADIENT)]
    assert "no backward pass was tried" in checks[0].reason
    # The edge of another code path lies at -103.97: what really came out decides.
    checks, findings = run(NAME, below, experiments=tried(0))
    assert problems(findings) == [("warning", sqrt_nan.GUARDED)]
    assert "no score was zero on the probe" in findings[0].message
    assert "no backward pass was needed" in run(NAME, learned(), experiments=tried(0))[0][0].reason


def test_the_certificate() -> None:
    assert "proved safe for any input" in run(NAME, learned(function="sqrtsoftplus"))[0][0].reason
    wide = {"logit_bound": [40.0] * (EXPERTS - 1) + [102.88]}
    assert "proved" not in run(NAME, learned(function="sqrtsoftplus", gate_facts=wide))[0][0].reason
    scan = run(NAME, learned(function="sqrtsoftplus", weights_only=True))[0][0]
    assert scan.verdict == "skipped"
    assert scan.reason.startswith("needs a forward pass; proved safe")


def test_kernels_are_mentioned() -> None:
    checks, findings = run(NAME, learned(function="sqrtsoftplus", logits=logits(selected_below_clamp=0.01)))
    assert [(found.severity, found.cause) for found in findings] == [("info", sqrt_nan.CLAMPED)]
    assert checks[0].verdict == "clean"
    assert run(NAME, learned(logits=logits(selected_below_clamp=0.01)))[1] == []


def test_not_judged() -> None:
    checks, _ = run(NAME, learned(facts={"verified": False, "reason": "it fired twice"}))
    assert (checks[0].verdict, checks[0].reason) == ("failed", "it fired twice")
    checks, _ = run(NAME, learned(weights=weights(promise_smallest=None, promise_largest=None)))
    assert checks[0].verdict == "clean"
    assert "no declared rule" in checks[0].reason


def test_the_score_is_stable() -> None:
    assert sqrt_softplus(1000.0) == pytest.approx(1000**0.5)
    assert sqrt_softplus(-60.0) == pytest.approx(9.357622968840175e-14)


def test_other_tensors_that_are_not_finite() -> None:
    gain = NormGain(name="model.layers.0.norm", rms=None, positive=1.0)
    experts = {"rms": {"down_proj": [1.0, None, *[1.0] * (EXPERTS - 2)]}, "shared": {"shared_expert.up_proj": None}}
    for weights_only in (True, False):
        broken = learned(gate_facts={"norm": gain}, expert_facts=experts, weights_only=weights_only)
        _, findings = run(NAME, broken)
        assert [f.cause for f in findings] == [
            nonfinite_tensors.NONFINITE_GAIN,
            nonfinite_tensors.NONFINITE_EXPERTS,
            nonfinite_tensors.NONFINITE_SHARED,
        ]
        assert [f.experts for f in findings] == [[], [1], []]
    only = learned(expert_facts={"rms": experts["rms"]}, magnitudes=magnitudes(routed_nonfinite=7))
    root, consequence = run(NAME, only)[1]
    assert (root.cause, consequence.cause) == (nonfinite_tensors.NONFINITE_EXPERTS, sqrt_nan.NONFINITE_OUTPUT)
    assert (root.follows, consequence.follows) == (None, only.router.path)
