"""scale-mismatch judges the size of the routed branch by its rule, its neighbours and the loss."""

import math

import numpy as np
import pytest

from moeprobe.detectors import lost_norm, scale_mismatch
from moeprobe.detectors.trend import departures
from moeprobe.findings.evidence import Experiments, RouterEvidence
from moeprobe.findings.router import Declared

from .synthetic import EXPERTS, curve, hashed, learned, magnitudes, problems, run, weights

NAME = "scale-mismatch"


def layers(*ratios: float, shared: bool = True, start: int = 0) -> list[RouterEvidence]:
    return [
        learned(start + i, magnitudes=magnitudes(shared=r) if shared else magnitudes(shared=None, residual=r))
        for i, r in enumerate(ratios)
    ]


def of_routers(*routers: RouterEvidence, **options: object) -> list[tuple[str, str]]:
    return problems(run(NAME, *routers, **options)[1])


def test_a_healthy_model_is_clean() -> None:
    routers = [hashed(0), *layers(2.0, 2.6, 2.2, 2.4, 2.1, start=1)]
    checks, findings = run(NAME, *routers, experiments=Experiments(loss=2.0, scale=[curve(best=1.05)]))
    assert findings == []
    assert {check.verdict for check in checks} == {"clean"}
    assert checks[-1].router is None


@pytest.mark.parametrize("ratio", [0.3, 1.0, 5.0, 0.02, 50.0])
def test_any_ordinary_ratio_is_fine(ratio: float) -> None:
    assert of_routers(*layers(*[ratio] * 6)) == []


@pytest.mark.parametrize(
    ("ratio", "cause"), [(0.0199, scale_mismatch.TOO_SMALL), (50.1, scale_mismatch.TOO_LARGE), (0.0, "small")]
)
def test_an_absent_or_huge_branch(ratio: float, cause: str) -> None:
    for shared in (True, False):
        found = of_routers(*layers(ratio, shared=shared))
        assert found == [("warning", scale_mismatch.TOO_SMALL if cause == "small" else cause)]


def test_no_shared_expert_is_said() -> None:
    for name, said in ((None, "no shared expert"), ("shared_experts", "the shared expert's output was not measured")):
        alone = learned(facts={"shared_experts": name}, magnitudes=magnitudes(shared=None, residual=0.2))
        checks, findings = run(NAME, alone)
        assert findings == []
        assert said in checks[0].reason
        assert checks[0].verdict == "clean"


def test_the_factor_of_the_config() -> None:
    doubled = learned(facts={"scaling_factor": 6.25}, weights=weights(promise_smallest=2.5, promise_largest=2.5))
    _, findings = run(NAME, doubled)
    assert problems(findings) == [("error", scale_mismatch.FACTOR)]
    assert "multiplied by 6.25, the config promises 2.5" in findings[0].message
    assert of_routers(learned(facts={"scaling_factor": 2.51})) == []
    assert of_routers(learned(weights=weights(promise_smallest=0.4, promise_largest=0.4))) == [
        ("error", scale_mismatch.FACTOR)
    ]


def test_a_factor_behind_the_experts_counts() -> None:
    beside = {"scaling_factor": 1.0, "output_factor": 2.5}
    kept = weights(promise_smallest=0.4, promise_largest=0.4)
    assert of_routers(learned(facts=beside, weights=kept)) == []
    assert of_routers(learned(facts=beside | {"output_factor": 1.0}, weights=kept)) == [
        ("error", scale_mismatch.FACTOR)
    ]
    assert of_routers(learned(facts=beside | {"output_factor": None}, weights=weights())) == []


@pytest.mark.parametrize(
    ("declared", "fitted", "function", "expected"),
    [
        (True, False, "sigmoid", [("error", scale_mismatch.UNNORMALISED)]),
        (False, True, "softmax", [("error", scale_mismatch.NORMALISED)]),
        (False, True, "sqrtsoftplus", []),
        (None, True, "sigmoid", []),
        (True, None, "sigmoid", []),
        (False, False, "softmax", []),
    ],
)
def test_the_norm_flag(declared: bool | None, fitted: bool | None, function: str, expected: list) -> None:
    facts = {"renormalised": fitted, "declared": Declared(renormalised=declared)}
    assert of_routers(learned(function=function, facts=facts)) == expected
    for k in (1, EXPERTS):
        assert of_routers(learned(function=function, facts=facts | {"top_k": k})) == []


def test_weights_that_follow_no_rule() -> None:
    odd = weights(promise_smallest=0.7, promise_largest=1.4, broken_promises=50)
    _, findings = run(NAME, learned(weights=odd))
    assert problems(findings) == [("error", scale_mismatch.UNEXPLAINED)]
    assert "sum to 0.7 to 1.4 times" in findings[0].message
    faded = weights(promise_smallest=0.1, smallest_chosen_score=1e-20)
    assert of_routers(learned(weights=faded)) == []


def test_one_layer_off_the_trend() -> None:
    ratios = [2.0, 2.2, 2.4, 2.0, 2.3, 2.1]
    for factor, fires in ((6.0, True), (1 / 6, True), (4.5, False)):
        changed = [r * factor if i == 3 else r for i, r in enumerate(ratios)]
        _, findings = run(NAME, *layers(*changed))
        assert [(found.cause, found.layer) for found in findings] == ([(scale_mismatch.OUTLIER, 3)] if fires else [])


def test_three_layers_have_no_trend() -> None:
    assert of_routers(*layers(0.1, 3.0, 3.0)) == []
    assert of_routers(*layers(3.0, 3.0, 3.0, 0.1)) == []


def test_a_steep_trend_has_no_outliers() -> None:
    growing = [0.05 * 1.6**i for i in range(13)]
    assert of_routers(*layers(*growing)) == []
    # The residual stream is small at first and large at last; neither end is compared by it.
    ends = [12.0, 0.5, 0.3, 0.25, 0.2, 0.2, 0.2, 0.025]
    assert of_routers(*layers(*ends, shared=False)) == []
    assert of_routers(*layers(*ends)) == [("warning", scale_mismatch.OUTLIER)]


def test_a_layer_off_a_steep_trend() -> None:
    growing = [0.1 * 1.5**i for i in range(13)]
    growing[6] *= 7
    _, findings = run(NAME, *layers(*growing))
    assert [(found.cause, found.layer) for found in findings] == [(scale_mismatch.OUTLIER, 6)]
    assert findings[0].measured == pytest.approx(7, rel=0.3)


def test_a_factor_of_five_among_scattered_layers_is_no_outlier() -> None:
    scattered = [1.0, 4.0, 0.5, 2.0, 0.25, 3.0, 0.4, 1.5]
    assert of_routers(*layers(*[r * 8 if i == 3 else r for i, r in enumerate(scattered)])) == []


def test_scattered_layers_have_no_outliers() -> None:
    noise = np.random.default_rng(0)
    for _ in range(50):
        assert of_routers(*layers(*np.exp(noise.normal(0, 0.35, 12)))) == []


def test_departures_ignore_the_value_itself() -> None:
    away = departures([0.0, 0.0, 5.0, 0.0, 0.0, 0.0], 0.25)
    assert away[2].offset == 5.0
    assert [departure.offset for i, departure in enumerate(away) if i != 2] == [0.0] * 5


@pytest.mark.parametrize(
    ("changes", "fires"),
    [
        ({"best": 0.05}, True),
        ({"best": 2.5}, True),
        ({"best": 0.63}, False),
        ({"best": 0.629}, True),
        ({"best": 1.6}, False),
        ({"best": 1.601}, True),
        ({"best": 0.4, "gain": 0.02}, False),
        ({"best": 0.4, "gain": 0.0201}, True),
        ({"best": 0.4, "standard_error": 0.2 / 3}, False),
        ({"best": 0.4, "sources_gaining": 2}, False),
        ({"best": 0.4, "sources_gaining": 3}, True),
        ({"best": 0.4, "documents": 8, "sources": 3, "sources_gaining": 3}, True),
    ],
)
def test_the_loss_of_the_whole_model(changes: dict, fires: bool) -> None:
    seen = curve(**{"standard_error": 0.001, **changes})
    checks, findings = run(NAME, learned(), experiments=Experiments(scale=[seen]))
    model = next(check for check in checks if check.router is None)
    assert model.verdict == ("finding" if fires else "clean")
    assert len(findings) == fires
    if fires:
        assert findings[0].measured == changes["best"]
        assert findings[0].router is None


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (0.05, "about 20 times too large: multiply it by about 1/20"),
        (0.058, "about 20 times too large: multiply it by about 1/20"),
        (0.226, "about 5 times too large: multiply it by about 1/5"),
        (0.37, "about 3 times too large: multiply it by about 1/3"),
        (1.7, "about 2 times too small: multiply it by about 2"),
        (5.8, "about 5 times too small: multiply it by about 5"),
        (23.1, "about 20 times too small: multiply it by about 20"),
    ],
)
def test_the_factor_that_the_loss_points_to(best: float, said: str) -> None:
    _, findings = run(NAME, learned(), experiments=Experiments(scale=[curve(best=best)]))
    assert findings[0].message.endswith(f"the branch is {said}.")
    assert findings[0].cause == (scale_mismatch.TOO_LARGE if best < 1 else scale_mismatch.TOO_SMALL)
    assert findings[0].remedy.endswith(said.rpartition("multiply it by ")[2])


@pytest.mark.parametrize(
    ("gain", "whole", "named"),
    [(0.2, 0.19, [1]), (0.2, 0.2, [1]), (0.19, 0.2, [None]), (0.0041, 0.0, [1]), (0.004, 0.0, [])],
)
def test_the_place_that_gains_most_is_named(gain: float, whole: float, named: list[int | None]) -> None:
    """One wrong layer drags the whole model and its neighbours along, a wrong factor drags every layer."""
    routers = layers(2.0, 2.2, 2.1)
    seen = [
        curve(best=0.3 if whole else 1.0, gain=whole, standard_error=0.001),
        curve(best=0.05, gain=gain, standard_error=0.001, path=routers[1].router.path),
        curve(best=3.0, gain=gain / 2, standard_error=0.001, path=routers[2].router.path),
    ]
    checks, findings = run(NAME, *routers, experiments=Experiments(loss=2.0, scale=seen))
    assert [found.layer for found in findings if found.severity == "error"] == named
    assert all(found.follows for found in findings if found.severity == "info")
    if gain > 0.01:
        assert "a change elsewhere gains more" in checks[2].reason


def test_a_layer_is_not_named_while_the_whole_model_is_undecided() -> None:
    routers = layers(2.0, 2.2, 2.1)
    seen = [curve(best=0.01, interior=False, gain=0.5), curve(best=0.05, gain=0.2, path=routers[1].router.path)]
    assert of_routers(*routers, experiments=Experiments(scale=seen)) == []


def test_sizes_that_the_whole_model_explains() -> None:
    """Every layer 60 times its shared expert is one finding; the other direction stays a warning."""
    whole = Experiments(scale=[curve(best=0.05)])
    assert of_routers(*layers(60.0, 70.0, 60.0), experiments=whole) == [("error", scale_mismatch.TOO_LARGE)]
    assert of_routers(*layers(0.01), experiments=whole) == [
        ("error", scale_mismatch.TOO_LARGE),
        ("warning", scale_mismatch.TOO_SMALL),
    ]


def test_layers_behind_a_swollen_residual_stream_follow() -> None:
    routers = layers(40.0, 0.01, 0.2, shared=False)
    seen = [curve(best=0.1, gain=0.1), curve(best=0.05, gain=0.2, path=routers[0].router.path)]
    _, findings = run(NAME, *routers, experiments=Experiments(scale=seen))
    assert problems(findings) == [("error", scale_mismatch.TOO_LARGE)]
    assert {found.follows for found in findings[1:]} == {routers[0].router.path}


def test_a_loss_that_is_not_finite() -> None:
    checks, _ = run(NAME, learned(), experiments=Experiments(loss=math.nan))
    assert checks[-1].reason == "the loss is not finite"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"best": 0.01, "interior": False}, "not decided: the least loss is at the edge of the grid (m = 0.01)"),
        ({"best": 0.1, "sources": 2}, "too few sources: 2 of 3"),
        ({"best": 0.1, "documents": 7}, "too few documents: 7 of 8"),
        ({"best": 0.1, "gain": math.nan}, "not decided: the loss at multiplier 1 is not known"),
    ],
)
def test_an_undecided_loss_test(changes: dict, reason: str) -> None:
    checks, findings = run(NAME, learned(), experiments=Experiments(scale=[curve(**changes)]))
    assert findings == []
    assert (checks[-1].verdict, checks[-1].reason) == ("skipped", reason)


def test_without_a_loss_test() -> None:
    checks, _ = run(NAME, learned())
    assert (checks[-1].verdict, checks[-1].reason) == ("skipped", "needs the loss test")


def test_the_loss_confirms_or_clears_a_layer() -> None:
    routers = layers(2.0, 2.2, 40.0, 2.0, 2.3, 2.1)
    path = routers[2].router.path
    confirmed = Experiments(scale=[curve(best=0.5), curve(best=0.05, path=path)])
    _, findings = run(NAME, *routers, experiments=confirmed)
    assert problems(findings) == [("error", scale_mismatch.TOO_LARGE)]
    assert findings[0].router == path
    assert [found.follows for found in findings if found.router is None] == [path]
    other_way = Experiments(scale=[curve(best=2.5), curve(best=0.05, path=path)])
    assert {found.follows for found in run(NAME, *routers, experiments=other_way)[1]} == {None}
    cleared = Experiments(scale=[curve(), curve(best=1.1, path=path)])
    _, findings = run(NAME, *routers, experiments=cleared)
    assert [(found.severity, found.cause) for found in findings] == [("info", scale_mismatch.OUTLIER)]
    undecided = Experiments(scale=[curve(), curve(best=0.01, interior=False, path=path)])
    _, findings = run(NAME, *routers, experiments=undecided)
    assert problems(findings) == [("warning", scale_mismatch.OUTLIER)]


def test_not_judged() -> None:
    checks, _ = run(NAME, learned(weights_only=True))
    assert checks[0].reason == "needs a forward pass"
    checks, _ = run(NAME, learned(facts={"verified": False, "reason": "it fired twice"}))
    assert (checks[0].verdict, checks[0].reason) == ("failed", "it fired twice")


LOST = {"renormalised": False, "declared": Declared(renormalised=False, released_norm="the default of XConfig")}


@pytest.mark.parametrize(
    ("best", "severity"), [(1.0, "info"), (1.18, "info"), (1.2, "warning"), (0.85, "info"), (0.83, "warning")]
)
def test_a_norm_that_the_family_has_and_the_config_lost(best: float, severity: str) -> None:
    seen = Experiments(loss=2.0, scale=[curve(best=best, gain=0.0)])
    _, findings = run(NAME, learned(facts=LOST), experiments=seen)
    assert [(f.severity, f.cause, f.router) for f in findings] == [(severity, lost_norm.LOST_NORM, None)]


def test_the_loss_that_decides_nothing_clears_no_lost_norm() -> None:
    undecided = Experiments(loss=2.0, scale=[curve(best=1.0, gain=0.0, interior=False)])
    for seen in (None, undecided):
        _, findings = run(NAME, learned(facts=LOST), experiments=seen)
        assert problems(findings) == [("warning", lost_norm.LOST_NORM)]


@pytest.mark.parametrize(
    "facts",
    [
        {"declared": Declared(renormalised=False)},
        {"declared": Declared(renormalised=True, released_norm="somebody"), "renormalised": True},
        LOST | {"top_k": 1},
        LOST | {"top_k": EXPERTS},
    ],
)
def test_where_no_norm_was_lost(facts: dict) -> None:
    _, findings = run(NAME, learned(function="softmax", facts={"renormalised": False} | facts))
    assert [f for f in findings if f.cause == lost_norm.LOST_NORM] == []
