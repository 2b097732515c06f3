"""Causes come before consequences, and two faults are two findings: what the tests clear stands."""

import pytest

from moeprobe.detectors import (
    drift_facts,
    overloaded_experts,
    permuted_experts,
    routing_drift,
    scale_mismatch,
    tensor_sizes,
)
from moeprobe.detectors.causes import trace_causes
from moeprobe.findings.evidence import Evidence, Experiments
from moeprobe.findings.finding import WHOLE_MODEL, Finding
from moeprobe.reporting.grouping import notes, problems
from tests.reporting import samples

from .synthetic import choice, curve, evidence, hashed, learned, row_tie

PATH = "model.layers.{}.mlp.gate"


def the_size(**facts: object) -> Finding:
    """A finding that the routed branches of all layers are too large."""
    return Finding.model_validate({
        "detector": "scale-mismatch", "code": "MP401", "severity": "error", "router": None, "layer": None,
        "quantity": "best multiplier", "message": "too large", "cause": scale_mismatch.TOO_LARGE, "remedy": "divide",
    } | facts)  # fmt: skip


def worthless(layer: int, **facts: object) -> Finding:
    """A finding that the choice of a layer is worth nothing."""
    return Finding.model_validate({
        "detector": "permuted-experts", "code": "MP703", "severity": "warning", "router": PATH.format(layer),
        "layer": layer, "quantity": "rise", "message": "worthless", "cause": permuted_experts.WORTHLESS,
        "remedy": "compare",
    } | facts)  # fmt: skip


def traced(*found: Finding, seen: Evidence) -> dict[tuple[str, int | None], tuple[str, str | None]]:
    return {(f.detector, f.layer): (f.severity, f.follows) for f in trace_causes(found, seen)}


def test_a_consequence_of_the_whole_model_names_it() -> None:
    along = curve(best=0.4, gain=0.1, path=PATH.format(2))
    seen = evidence(learned(3), experiments=Experiments(loss=2.0, scale=[curve(best=0.3, gain=0.5), along]))
    root, consequence = trace_causes([worthless(3), the_size()], seen)
    assert (root.detector, root.follows) == ("scale-mismatch", None)
    assert (consequence.severity, consequence.follows) == ("info", WHOLE_MODEL)
    base = samples.healthy().model_copy(update={"findings": [root, consequence]})
    (group,) = problems(base)
    assert [one.worst.detector for one in group.consequences] == ["permuted-experts"]
    assert notes(base) == []


CHOSEN, SIZED = ("permuted-experts", 1), ("scale-mismatch", None)


@pytest.mark.parametrize(
    ("cause", "severity"),
    [(cause, severity) for cause in (permuted_experts.WORTHLESS, *permuted_experts.BY_WEIGHTS)
     for severity in ("error", "warning")],
)  # fmt: skip
def test_broken_order_is_the_cause_of_a_wrong_size(cause: str, severity: str) -> None:
    """To shrink a branch whose rows are out of order would do damage: the order comes first, here and in the model."""
    routers = [learned(layer) for layer in range(4)]
    order = worthless(1, cause=cause, severity=severity)
    here, whole = the_size(router=PATH.format(1), layer=1), the_size()
    sound = curve(gain=0.0, path=PATH.format(2))
    experiments = Experiments(
        loss=2.0, scale=[curve(best=0.3, gain=0.1), curve(best=0.2, gain=0.09, path=PATH.format(1)), sound]
    )
    found = traced(order, here, whole, seen=evidence(*routers, experiments=experiments))
    assert found[CHOSEN] == (severity, None)
    # A warning does not hide the errors that it causes.
    size = "info" if severity == "error" else "error"
    assert found["scale-mismatch", 1] == found[SIZED] == (size, PATH.format(1))


@pytest.mark.parametrize("along", [True, False])
def test_a_wrong_size_of_all_layers_stands_beside_a_broken_order(along: bool) -> None:
    """A factor drags sound layers along, or gains far more than the broken layer does alone."""
    routers = [learned(layer) for layer in range(4)]
    sound = curve(best=0.4, gain=0.1 if along else 0.0, path=PATH.format(2))
    scale = [curve(best=0.3, gain=0.5), curve(best=0.2, gain=0.4 if along else 0.02, path=PATH.format(1)), sound]
    tests = [choice(layer=layer) for layer in (0, 2, 3)] + [choice(-0.02, 0.01, layer=1)]
    seen = evidence(*routers, experiments=Experiments(loss=2.0, scale=scale, choice=tests))
    assert traced(worthless(1), the_size(), seen=seen) == {CHOSEN: ("warning", None), SIZED: ("error", None)}
    # Where no other layer is cleared, the size may be why this choice is worth nothing.
    spoilt = seen.experiments.model_copy(update={"choice": tests[-1:]}) if seen.experiments else None
    seen = seen.model_copy(update={"experiments": spoilt})
    assert traced(worthless(1), the_size(), seen=seen) == {CHOSEN: ("info", WHOLE_MODEL), SIZED: ("error", None)}


def test_broken_order_is_the_cause_of_overload_and_drift() -> None:
    routers = [learned(layer) for layer in range(3)]
    order = worthless(1, cause=permuted_experts.PERMUTED)
    load_of_it = worthless(1, detector="overloaded-experts", code="MP602", cause=overloaded_experts.OVERLOADED)
    moved = worthless(1, detector="routing-drift", code="MP801", cause=drift_facts.RENUMBERED)
    below = worthless(2, detector="routing-drift", code="MP801", cause=routing_drift.INHERITED)
    found = traced(load_of_it, below, moved, order, seen=evidence(*routers))
    assert found.pop(CHOSEN) == ("warning", None)
    assert set(found.values()) == {("info", PATH.format(1))}


@pytest.mark.parametrize(
    ("by_loss", "follows"),
    [
        ({2: "worth", 3: "worth"}, None),
        ({2: "worth", 3: "nothing"}, None),
        ({2: "nothing", 3: "nothing"}, PATH.format(1)),
        ({}, PATH.format(1)),
    ],
)
def test_behind_an_earlier_fault_only_while_all_between_show_it(by_loss: dict[int, str], follows: str | None) -> None:
    routers = [learned(layer) for layer in range(5)]
    tests = [choice(layer=at) if worth == "worth" else choice(-0.02, 0.01, layer=at) for at, worth in by_loss.items()]
    seen = evidence(*routers, experiments=Experiments(loss=2.0, choice=tests))
    found = traced(worthless(1), worthless(4), seen=seen)
    assert found["permuted-experts", 1] == ("warning", None)
    assert found["permuted-experts", 4] == ("info" if follows else "warning", follows)


@pytest.mark.parametrize(("next_layer", "follows"), [("worth", None), ("nothing", PATH.format(0))])
def test_of_neighbours_the_next_layer_tells(next_layer: str, follows: str | None) -> None:
    """Two damaged hash tables side by side."""
    routers = [hashed(0), hashed(1), learned(2), learned(3)]
    tests = [choice(layer=2) if next_layer == "worth" else choice(-0.02, 0.01, layer=2)]
    seen = evidence(*routers, experiments=Experiments(loss=2.0, choice=tests))
    assert traced(worthless(0), worthless(1), seen=seen)["permuted-experts", 1][1] == follows


def test_rows_that_are_tied_to_their_experts_are_behind_a_fault() -> None:
    """The loss alone accuses the layer, the weights clear it: what an earlier layer hands on is the cause."""
    tied = learned(3)
    assert tied.experts is not None
    tied = tied.model_copy(update={"experts": tied.experts.model_copy(update={"tie": row_tie()})})
    seen = evidence(learned(1), learned(2), tied, experiments=Experiments(loss=2.0, choice=[choice(layer=2)]))
    lost = the_size(router=PATH.format(1), layer=1, cause=tensor_sizes.GAIN_LOST)
    assert traced(lost, worthless(3), seen=seen)["permuted-experts", 3] == ("info", PATH.format(1))
