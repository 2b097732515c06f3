"""One root cause is one finding; what it explains follows it."""

import pytest

from moeprobe.detectors import (
    bias_balance,
    bias_runaway,
    dead_experts,
    flatness,
    hash_boundary,
    nonfinite_tensors,
    sqrt_nan,
)
from moeprobe.findings.evidence import Experiments, Interval, Load, RouterEvidence
from moeprobe.findings.finding import Finding

from .synthetic import (
    EXPERTS,
    RANDOM,
    TOKENS,
    K,
    around,
    bias,
    choice,
    evidence,
    hashed,
    judged,
    learned,
    load,
    logits,
    selection,
    weights,
)

PATH = "model.layers.{}.mlp.gate"


def findings(*routers: object) -> list[Finding]:
    return judged(evidence(*routers)).findings


def test_a_flat_router_lets_the_bias_decide() -> None:
    flat = learned(3, logits=logits(std=0.001), selection=selection(bias_only=0.97, modal=0.97))
    judgement = judged(evidence(learned(0), flat))
    root, consequence = judgement.findings
    assert (root.detector, root.severity, root.follows) == ("flat-scores", "error", None)
    assert (consequence.cause, consequence.severity) == (bias_runaway.DECIDES, "info")
    assert consequence.follows == flat.router.path
    verdicts = {check.detector: check.verdict for check in judgement.checks if check.router == flat.router.path}
    assert verdicts["bias-runaway"] == "finding"


def test_a_severe_consequence_of_a_mild_cause_stays_severe() -> None:
    mild = learned(logits=logits(std=0.03), selection=selection(bias_only=0.97))
    consequence, root = findings(mild)
    assert (root.detector, root.severity) == ("flat-scores", "warning")
    assert (consequence.severity, consequence.follows) == ("error", mild.router.path)


def test_a_bias_that_outweighs_makes_one_set() -> None:
    biased = learned(selection=selection(bias_only=0.97, modal=0.97))
    root, consequence = findings(biased)
    assert (root.cause, root.follows) == (bias_runaway.DECIDES, None)
    assert (consequence.cause, consequence.severity) == (flatness.BIAS_OUTWEIGHS, "info")


def test_nan_travels_down() -> None:
    sick = [learned(i, logits=logits(nonfinite=5)) for i in (4, 5, 6)]
    found = findings(learned(3), *sick)
    assert [(f.layer, f.severity, f.follows) for f in found] == [
        (4, "error", None),
        (5, "info", sick[0].router.path),
        (6, "info", sick[0].router.path),
    ]


def test_a_broken_gate_is_the_root_of_its_nan() -> None:
    gate = learned(2, gate_facts={"nonfinite_rows": [1]}, logits=logits(nonfinite=5))
    later = learned(3, weights=weights(nonfinite=5))
    root, consequence = findings(gate, later)
    assert (root.cause, root.follows) == (nonfinite_tensors.NONFINITE_GATE, None)
    assert (consequence.cause, consequence.severity) == (sqrt_nan.NONFINITE_WEIGHTS, "info")
    assert consequence.follows == gate.router.path
    # What reaches it is broken already, and its gate is broken all the same.
    both = findings(learned(1, logits=logits(nonfinite=5)), gate)
    assert [(f.severity, f.follows) for f in both] == [("error", None)] * 2


def test_a_router_without_a_gradient_stays_untrained() -> None:
    top_one = {"facts": {"top_k": 1}, "weights": weights(smallest_sum=1.0, largest_sum=1.0)}
    fresh = learned(**top_one, expert_facts={"coupling": 0.0}, gate_facts={"shape": RANDOM})
    found = judged(evidence(fresh, experiments=Experiments(loss=4.0, choice=[choice(-0.02, 0.01)]))).findings
    assert {f.detector: f.follows is None for f in found} == {
        "broken-contract": True,
        "untrained-gate": False,
        "permuted-experts": False,
    }


def test_an_edge_is_not_a_consequence_of_nan_elsewhere() -> None:
    found = findings(learned(1, logits=logits(nonfinite=5)), learned(2, "sqrtsoftplus", logits=logits(smallest=-104.0)))
    assert [f.cause for f in found if f.follows is None] == [sqrt_nan.NONFINITE_LOGITS, sqrt_nan.NAN_GRADIENT]


def test_order_is_worst_then_roots_then_depth() -> None:
    found = findings(
        learned(1, selection=selection(ties=0.02)),
        learned(2, gate_facts={"identical_rows": [(0, 1)]}),
        learned(3, logits=logits(std=0.001)),
        learned(4, gate_facts={"zero_rows": list(range(EXPERTS))}, selection=selection(bias_only=0.6)),
    )
    assert [(f.severity, f.layer) for f in found] == [
        ("error", 2),
        ("error", 3),
        ("error", 4),
        ("warning", 1),
        ("info", 4),
    ]


def test_a_broken_bias_does_not_make_nan_elsewhere() -> None:
    # The bias only chooses; weights are made of the scores.
    broken = learned(0, facts={"selection_bias": bias([float("nan")] + [0.0] * (EXPERTS - 1))})
    found = findings(broken, learned(1, weights=weights(nonfinite=5)))
    assert [f.follows for f in found] == [None, None]


def uneven(dead: tuple[int, ...] = (3,), **facts: object) -> Load:
    """Experts that nobody chose; the others share evenly."""
    share = TOKENS * K // (EXPERTS - len(dead))
    return load([0 if e in dead else share for e in range(EXPERTS)], **facts)


def less_even() -> Load:
    return load(max_vio=Interval(value=3.0, low=2.8, high=3.2), unbiased_max_vio=Interval(value=0.3, low=0.2, high=0.4))


def test_an_uneven_load_of_flat_scores_is_not_the_fault_of_the_bias() -> None:
    flat = learned(3, logits=logits(std=0.001), load=less_even())
    root, consequence = findings(flat)
    assert (root.detector, root.follows) == ("flat-scores", None)
    assert (consequence.cause, consequence.severity) == (bias_balance.UNBALANCES, "info")
    assert consequence.follows == flat.router.path


@pytest.mark.parametrize("share", [0.97, 0.6])
def test_a_bias_that_decides_makes_the_load_less_even(share: float) -> None:
    decided = learned(selection=selection(bias_only=share), load=less_even())
    root, consequence = findings(decided)
    assert (root.cause, root.follows) == (bias_runaway.DECIDES, None)
    assert (consequence.cause, consequence.severity) == (bias_balance.UNBALANCES, "info")


def test_a_favourite_makes_the_load_less_even_and_is_overloaded() -> None:
    values = around(0, 0.2)
    values[5] += 10
    counts = [(TOKENS * K - TOKENS) // (EXPERTS - 1)] * EXPERTS
    counts[5] = TOKENS
    shown = less_even().model_copy(update={"counts": counts, "by_source": load(counts).by_source})
    root, *rest = findings(learned(facts={"selection_bias": bias(values)}, load=shown))
    assert (root.severity, root.experts) == ("error", [5])
    assert root.cause.endswith(bias_runaway.ALWAYS)
    assert {(f.detector, f.severity, f.follows) for f in rest} == {
        ("bias-runaway", "info", root.router),
        ("overloaded-experts", "info", root.router),
    }


def test_less_even_alone_and_elsewhere_stays() -> None:
    flat, unbalanced = learned(2, logits=logits(std=0.001)), learned(3, load=less_even())
    assert [(f.layer, f.follows) for f in findings(flat, unbalanced)] == [(2, None), (3, None)]


def never(*experts: int) -> dict:
    return {"selection_bias": bias([-10.0 if e in experts else 0.01 * e for e in range(EXPERTS)])}


@pytest.mark.parametrize(
    ("seen", "root"),
    [
        (learned(logits=logits(std=0.001), load=uneven()), "flat-scores"),
        (learned(gate_facts={"zero_rows": [3]}, load=uneven()), "flat-scores"),
        (learned(facts=never(3), load=uneven()), "bias-runaway"),
        (learned(selection=selection(bias_only=0.97), load=uneven()), "bias-runaway"),
        (learned(0, "sqrtsoftplus", logits=logits(smallest=-104.0), load=uneven()), "sqrt-nan"),
        (learned(logits=logits(nonfinite=5), load=uneven()), "sqrt-nan"),
        (hashed(0, {"unreachable": [3]}, load=uneven(), hash_use=None), "hash-boundary"),
        (hashed(0, {"all_zero": True, "constant": True}, load=uneven(), hash_use=None), "hash-boundary"),
    ],
)
def test_a_dead_expert_of_a_broken_router_is_no_second_problem(seen: RouterEvidence, root: str) -> None:
    found = findings(seen)
    assert [f.detector for f in found if f.severity != "info"] == [root]
    (dead,) = [f for f in found if f.detector == "dead-experts"]
    assert dead.follows == seen.router.path


@pytest.mark.parametrize(
    "seen",
    [
        learned(load=uneven()),
        learned(facts=never(3), load=uneven((3, 7))),
        learned(facts={"selection_bias": bias(around(7, 0.2503), "bfloat16", "bfloat16")}, load=uneven()),
        hashed(0, {"unreachable": [3]}, load=uneven((3, 7)), hash_use=None),
    ],
    ids=["healthy", "other experts", "offset", "other experts of a table"],
)
def test_a_dead_expert_that_nothing_explains_stays_a_problem(seen: RouterEvidence) -> None:
    found = findings(seen)
    (dead,) = [f for f in found if f.detector == "dead-experts"]
    assert (dead.severity, dead.follows) == ("warning", None)
    if seen.router.selection_bias and seen.router.selection_bias.dtype == "bfloat16":
        assert bias_runaway.OFFSET_16BIT in {f.cause for f in found}


def test_dead_experts_are_downstream_of_a_nan_only_where_it_arrives() -> None:
    sick = learned(4, logits=logits(nonfinite=5))
    reached = learned(5, logits=logits(nonfinite=5), load=uneven())
    spared = learned(6, load=uneven())
    found = findings(sick, reached, spared)
    assert [(f.layer, f.severity, f.follows) for f in found if f.detector == "dead-experts"] == [
        (6, "warning", None),
        (5, "info", sick.router.path),
    ]


def test_a_wrong_scale_upstream_explains_no_load() -> None:
    wrong = learned(1, weights=weights(promise_smallest=20.0, promise_largest=20.0, broken_promises=TOKENS))
    found = findings(wrong, learned(2, load=uneven()))
    assert [(f.detector, f.follows) for f in found] == [("scale-mismatch", None), ("dead-experts", None)]


def test_a_boundary_proxy_explains_no_load() -> None:
    first = learned(1, selection=selection(flips_noise=0.4), load=uneven())
    found = findings(hashed(0), first, *(learned(i) for i in range(2, 6)))
    assert {f.cause for f in found if f.follows is None} >= {
        hash_boundary.UNSETTLED,
        dead_experts.NEVER_USED,
    }


def test_a_second_nan_stands_where_the_first_does_not_arrive() -> None:
    unused = learned(1, expert_facts={"rms": {"down_proj": [None] + [1.0] * (EXPERTS - 1)}})
    found = findings(unused, learned(2), learned(3, logits=logits(nonfinite=5)))
    assert [(f.layer, f.follows) for f in found if f.severity == "error"] == [(1, None), (3, None)]
    sick = learned(1, logits=logits(nonfinite=5))
    found = findings(sick, learned(2), learned(3, logits=logits(nonfinite=5)))
    assert [(f.layer, f.follows) for f in found if f.severity == "error"] == [(1, None), (3, None)]


def test_two_layers_with_one_mistake_are_two_where_those_between_have_none() -> None:
    wrong = {"weights": weights(promise_smallest=20.0, promise_largest=20.0, broken_promises=TOKENS)}
    apart = findings(learned(0, **wrong), learned(1), learned(2, **wrong))
    assert [(f.layer, f.follows) for f in apart] == [(0, None), (2, None)]
    everywhere = findings(*(learned(layer, **wrong) for layer in range(3)))
    assert [f.follows for f in everywhere] == [None, PATH.format(0), PATH.format(0)]
