"""scale-mismatch judges the sizes of gate rows, experts, shared experts and norm gains beside their siblings."""

import numpy as np
import pytest

from moeprobe.detectors import scale_mismatch, tensor_sizes
from moeprobe.detectors.scale_mismatch import ScaleMismatchLimits
from moeprobe.detectors.siblings import off_siblings, off_trend
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.finding import Finding
from moeprobe.findings.weights import NormGain

from .synthetic import EXPERTS, evidence, judged, learned, magnitudes, problems, run

NAME = "scale-mismatch"
LIMITS = ScaleMismatchLimits()
DEPTH = 8


def model(**changed: dict[int, object]) -> list[RouterEvidence]:
    """Eight layers whose sizes grow with depth and scatter; ``rms``, ``shared``, ``gain`` and ``rows`` replace one."""
    dice = np.random.default_rng(0)
    made = []
    for layer in range(DEPTH):
        growth = 1.1**layer
        facts = {
            "rms": {
                part: (0.02 * growth * np.exp(dice.normal(0, 0.1, EXPERTS))).tolist()
                for part in ("gate_up_proj", "down_proj")
            },
            "shared": {f"shared_experts.{part}": 0.05 * growth for part in ("up_proj", "down_proj")},
        }
        gate = {
            "row_norms": np.exp(dice.normal(0, 0.2, EXPERTS)).tolist(),
            "norm": NormGain(name=f"model.layers.{layer}.norm", rms=0.3 * growth, positive=1.0),
        }
        for name, held in (("rms", facts), ("shared", facts), ("norm", gate), ("row_norms", gate)):
            if change := changed.get(name, {}).get(layer):
                held[name] = change(held[name])
        made.append(learned(layer, expert_facts=facts, gate_facts=gate, weights_only=True))
    return made


def found(**changed: dict[int, object]) -> list[Finding]:
    return [one for one in run(NAME, *model(**changed))[1] if one.severity != "info"]


def times(factor: float, *experts: int, part: str | None = None) -> object:
    """A change of a dict of sizes, or of a list of them."""

    def of(values: list[float]) -> list[float]:
        return [value * factor if e in experts else value for e, value in enumerate(values)]

    def change(held: object) -> object:
        if isinstance(held, list):
            return of(held)
        return {
            name: values
            if part is not None and name != part
            else of(values)
            if isinstance(values, list)
            else values * factor
            for name, values in held.items()
        }

    return change


def test_a_healthy_model_is_clean_as_far_as_the_weights_tell() -> None:
    checks, findings = run(NAME, *model())
    assert findings == []
    assert all(check.weighed for check in checks if check.router)


@pytest.mark.parametrize(
    ("factor", "severity"),
    [(50, "error"), (15, "warning"), (6, None), (0.15, None), (0.07, "warning"), (0.01, "error")],
)
def test_gate_rows(factor: float, severity: str | None) -> None:
    findings = found(row_norms={3: times(factor, 2, 9)})
    said = [(f.severity, f.cause, f.layer, f.experts) for f in findings]
    assert said == ([(severity, tensor_sizes.ROWS, 3, [2, 9])] if severity else [])
    if severity:
        assert "the gate row of expert 9 is" in findings[0].message
        assert findings[0].limit_name == "scale-mismatch.row_factor"


@pytest.mark.parametrize(
    ("factor", "severity"), [(100, "error"), (8, "warning"), (2, None), (0.5, None), (0.1, "warning")]
)
def test_one_expert(factor: float, severity: str | None) -> None:
    findings = found(rms={5: times(factor, 4, part="down_proj")})
    said = [(f.severity, f.cause, f.layer, f.experts) for f in findings]
    assert said == ([(severity, tensor_sizes.EXPERT, 5, [4])] if severity else [])
    if severity:
        assert "down_proj of expert 4 is" in findings[0].message
        assert "gate_up_proj" not in findings[0].message


def test_an_expert_of_zeros_is_an_error() -> None:
    (finding,) = found(rms={5: times(0.0, 4, part="down_proj")})
    assert (finding.severity, finding.cause, finding.experts) == ("error", tensor_sizes.EXPERT_ZERO, [4])
    assert "every entry of down_proj of expert 4 is zero" in finding.message


def test_a_shared_expert_of_zeros_is_lost() -> None:
    for layer in (0, 4, DEPTH - 1):
        (finding,) = found(shared={layer: times(0.0)})
        assert (finding.severity, finding.cause, finding.layer) == ("error", tensor_sizes.SHARED_LOST, layer)
        assert "shared_experts.up_proj and shared_experts.down_proj" in finding.message


@pytest.mark.parametrize(
    ("factor", "layer", "severity"),
    [(100, 4, "error"), (8, 4, "warning"), (3, 4, None), (0.1, 4, "warning"), (8, 0, None), (8, DEPTH - 1, None),
     (60, 0, "error"), (0.02, DEPTH - 1, "error")],
)  # fmt: skip
@pytest.mark.parametrize("what", ["shared", "rms", "norm"])
def test_sizes_over_depth(what: str, factor: float, layer: int, severity: str | None) -> None:
    causes = {"shared": tensor_sizes.SHARED, "rms": tensor_sizes.LAYER, "norm": tensor_sizes.GAIN}
    names = {"shared": "shared_experts.up_proj", "rms": "of the median expert", "norm": f"layers.{layer}.norm.weight"}
    change = times(factor, *range(EXPERTS))
    if what == "norm":
        change = lambda norm: norm.model_copy(update={"rms": norm.rms * factor})  # noqa: E731
    findings = found(**{what: {layer: change}})
    assert [(f.severity, f.cause, f.layer) for f in findings] == ([(severity, causes[what], layer)] if severity else [])
    assert all(names[what] in f.message for f in findings)


def test_a_norm_gain_of_zeros_and_one_that_is_stored_without_its_offset() -> None:
    zero = lambda norm: norm.model_copy(update={"rms": 0.0})  # noqa: E731
    (finding,) = found(norm={2: zero})
    assert (finding.severity, finding.cause, finding.layer) == ("error", tensor_sizes.GAIN_LOST, 2)
    around = dict.fromkeys(range(DEPTH), lambda norm: norm.model_copy(update={"positive": 0.6}))
    around[2] = lambda norm: norm.model_copy(update={"positive": 0.0, "rms": 0.0})
    assert found(norm=around) == []


def test_upcycled_siblings_and_wide_scatter_are_healthy() -> None:
    same = [1.0] * 15
    assert off_siblings([*same, 3.9], 4, LIMITS) == {}
    assert off_siblings([*same, 4.1], 4, LIMITS) == {15: pytest.approx(4.1)}
    wide = np.exp(np.linspace(-1, 1, 15)).tolist()
    assert off_siblings([*wide, 8.0], 4, LIMITS) == {}
    assert off_siblings([1, 1, 100], 4, LIMITS) == {}
    assert off_siblings([None, 0.0, 1, 1, 1, 1, 100], 4, LIMITS) == {6: pytest.approx(100)}


def test_too_few_layers_have_no_trend() -> None:
    sizes = dict.fromkeys(range(5), 1.0) | {2: 100.0}
    assert list(off_trend(sizes, LIMITS)) == [2]
    del sizes[4]
    assert off_trend(sizes, LIMITS) == {}


def test_a_lost_tensor_explains_the_size_of_the_branch() -> None:
    routers = model(shared={4: times(0.0)})
    shown = learned(4, magnitudes=magnitudes(shared=80.0), expert_facts={"shared": {"shared_experts.up_proj": 0.0}})
    routers[4] = shown
    findings = judged(evidence(*routers), NAME).findings
    assert problems([f for f in findings if f.severity != "info"]) == [("error", tensor_sizes.SHARED_LOST)]
    (branch,) = [f for f in findings if f.cause == scale_mismatch.TOO_LARGE]
    assert (branch.severity, branch.follows) == ("info", shown.router.path)


def test_routers_of_another_kind_are_not_compared() -> None:
    text = model()
    images = [
        one.model_copy(update={"router": one.router.model_copy(update={"path": f"vision.blocks.{i}.gate"})})
        for i, one in enumerate(model(shared=dict.fromkeys(range(DEPTH), times(30.0))))
    ]
    assert run(NAME, *text, *images)[1] == []
