"""The table of causes has no cycle, and no two findings ever follow each other, whatever is found."""

from collections.abc import Iterable
from graphlib import TopologicalSorter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeprobe.detectors.cause_kinds import KINDS, MISPLACED, OTHER, RANK, WHOLE_SIZE, Kind, kind_of
from moeprobe.detectors.cause_refuted import Scene
from moeprobe.detectors.cause_relation import Relation, Where
from moeprobe.detectors.cause_relations import RELATIONS
from moeprobe.detectors.causes import explains, precedence, trace_causes
from moeprobe.detectors.registry import DETECTORS
from moeprobe.findings.evidence import Evidence, Experiments, RouterEvidence
from moeprobe.findings.finding import SEVERITIES, WHOLE_MODEL, Finding

from .synthetic import choice, curve, evidence, hashed, learned, logits, row_tie

LAYERS = 4
PATHS = [f"model.layers.{layer}.mlp.gate" for layer in range(LAYERS)]
BEFORE, BEHIND = -1, LAYERS
"""Places of the whole model as a cause and as a consequence."""


def found_of(kind: Kind, layer: int | None, severity: str = "error", cause: int = 0) -> Finding:
    path = None if layer is None else PATHS[layer]
    return Finding.model_validate({
        "detector": kind.detector, "code": "MP000", "severity": severity, "router": path, "layer": layer,
        "quantity": "q", "message": "m", "cause": kind.causes[cause % len(kind.causes)] if kind.causes else "another",
        "remedy": "r",
    })  # fmt: skip


def edges(relation: Relation) -> Iterable[tuple[tuple[int, Kind], tuple[int, Kind]]]:
    """Every pair of places and kinds that a relation joins, as the table says it and nothing else."""
    layers = range(LAYERS)
    for cause in relation.causes:
        for consequence in relation.consequences:
            if relation.where is Where.HERE:
                yield from (((at, cause), (at, consequence)) for at in layers)
            elif relation.where is Where.LATER:
                yield from (((at, cause), (deep, consequence)) for at in layers for deep in layers if at < deep)
            elif relation.where is Where.WHOLE:
                # The wrong order of layers stands before all of them.
                yield from (((BEFORE if cause is MISPLACED else at, cause), (BEHIND, consequence)) for at in layers)
            else:
                yield from (((BEFORE, cause), (at, consequence)) for at in layers)


def test_the_table_has_no_cycle() -> None:
    graph: dict[tuple[int, Kind], set[tuple[int, Kind]]] = {}
    for relation in RELATIONS:
        for cause, consequence in edges(relation):
            graph.setdefault(consequence, set()).add(cause)
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) > 100


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda one: one.says)
def test_a_cause_comes_before_its_consequences(relation: Relation) -> None:
    for (at, cause), (deep, consequence) in edges(relation):
        assert (at, RANK[cause]) < (deep, RANK[consequence]), f"{cause.name} cannot cause {consequence.name}"


def test_every_finding_has_one_kind() -> None:
    named = [(kind.detector, kind.whole, cause) for kind in KINDS for cause in kind.causes]
    assert len(named) == len(set(named))
    rest = [(kind.detector, kind.whole) for kind in KINDS if not kind.causes]
    assert len(rest) == len(set(rest))
    assert {kind_of(found_of(kind, None if kind.whole else 0)) for kind in KINDS} == set(KINDS)
    detectors = {kind.detector for kind in KINDS if kind is not OTHER}
    assert detectors == {detector.name for detector in DETECTORS}


def routers(bits: list[bool]) -> list[RouterEvidence]:
    """Hash and learned layers, with and without NaN, a collapsed input or a tie."""
    made = []
    for layer, (table, sick, tied) in enumerate(zip(bits[::3], bits[1::3], bits[2::3], strict=True)):
        one = hashed(layer) if table else learned(layer, logits=logits(nonfinite=5 if sick else 0))
        if tied and not table and one.experts is not None:
            one = one.model_copy(update={"experts": one.experts.model_copy(update={"tie": row_tie()})})
        made.append(one)
    return made


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Finding], Evidence]:
    places = st.sampled_from([None, *range(LAYERS)])
    findings = draw(st.lists(
        st.builds(found_of, st.sampled_from(KINDS), places, st.sampled_from(SEVERITIES), st.integers(0, 3)), max_size=14
    ))  # fmt: skip
    # A finding about the whole model is one of a kind that can be.
    findings = [one for one in findings if one.router is not None or kind_of(one).whole]
    worth = draw(st.lists(st.sampled_from(["worth", "nothing", "none"]), min_size=LAYERS, max_size=LAYERS))
    tests = [choice(layer=at) if how == "worth" else choice(-0.02, 0.01, layer=at)
             for at, how in enumerate(worth) if how != "none"]  # fmt: skip
    best = st.sampled_from([0.2, 1.0, 3.0])
    gain = st.sampled_from([0.0, 0.02, 0.2, 0.6])
    curves = [curve(best=draw(best), gain=draw(gain), path=path) for path in [None, *PATHS] if draw(st.booleans())]
    bits = draw(st.lists(st.booleans(), min_size=3 * LAYERS, max_size=3 * LAYERS))
    return findings, evidence(*routers(bits), experiments=Experiments(loss=2.0, scale=curves, choice=tests))


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_no_two_findings_follow_each_other(scene: tuple[list[Finding], Evidence]) -> None:
    findings, seen = scene
    traced = trace_causes(findings, seen)
    bare = [one.model_copy(update={"follows": None, "severity": "info"}) for one in traced]
    given_ = [one.model_copy(update={"severity": "info"}) for one in findings]
    key = Finding.model_dump_json
    assert sorted(map(key, bare)) == sorted(map(key, given_))
    roots = {one.router or WHOLE_MODEL for one in traced if one.follows is None and one.severity != "info"}
    for one in traced:
        # What is followed is a problem that follows nothing itself.
        assert one.follows is None or one.follows in roots
    shuffled = trace_causes(findings[::-1], seen)
    assert sorted(map(key, shuffled)) == sorted(map(key, traced))


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_nothing_severe_is_lost(scene: tuple[list[Finding], Evidence]) -> None:
    """The worst of what was found stays the worst of what is reported, and every problem has one that stands."""
    findings, seen = scene
    traced = trace_causes(findings, seen)
    worst = min((SEVERITIES.index(one.severity) for one in findings), default=None)
    assert min((SEVERITIES.index(one.severity) for one in traced), default=None) == worst
    if any(one.severity != "info" for one in findings):
        assert any(one.severity != "info" and one.follows is None for one in traced)


def test_the_whole_model_is_a_cause_or_a_consequence_never_both() -> None:
    size, order = found_of(WHOLE_SIZE, None), found_of(next(k for k in KINDS if k.name.startswith("rows and")), 1)
    for whole in (0.0, 0.9):
        curves = [curve(best=0.3, gain=whole), curve(best=0.3, gain=0.1, path=PATHS[1])]
        seen = evidence(*(learned(at) for at in range(LAYERS)), experiments=Experiments(loss=2.0, scale=curves))
        scene = Scene(seen, (size, order))
        assert explains(order, size, scene) is not (precedence(size, scene)[0] == BEFORE)
