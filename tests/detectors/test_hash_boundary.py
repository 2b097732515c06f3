"""hash-boundary judges the table exactly and the boundary by proxies."""

import pytest

from moeprobe.detectors import hash_boundary, hash_table
from moeprobe.detectors.hash_skew import SKEWED
from moeprobe.findings.evidence import HashUse, RouterEvidence
from moeprobe.findings.weights import Busiest

from .synthetic import EXPERTS, VOCABULARY, hashed, learned, load, magnitudes, problems, run, selection

NAME = "hash-boundary"


def model(first: dict | None = None, last: dict | None = None, count: int = 5) -> list[RouterEvidence]:
    """Two hash layers and ``count`` learned ones; ``first`` and ``last`` change the two at the boundary."""
    boundary = [hashed(1, **(last or {})), learned(2, "sqrtsoftplus", **(first or {}))]
    return [hashed(0), *boundary, *(learned(i, "sqrtsoftplus") for i in range(3, 2 + count))]


def test_a_healthy_model_is_clean() -> None:
    checks, findings = run(NAME, *model())
    assert findings == []
    assert [check.verdict for check in checks] == ["clean"] * 3 + ["skipped"] * 4
    assert checks[-1].reason == "not at the hash boundary"


def test_no_hash_layers_is_one_check() -> None:
    checks, findings = run(NAME, learned(0), learned(1))
    assert findings == []
    assert [(check.router, check.verdict, check.reason) for check in checks] == [(None, "skipped", "no hash layers")]


@pytest.mark.parametrize(
    ("facts", "severity", "cause"),
    [
        (
            {"all_zero": True, "constant": True, "rows_with_repeats": VOCABULARY, "unreachable": [1, 2]},
            "error",
            hash_table.ALL_ZERO,
        ),
        ({"constant": True, "unreachable": [9]}, "error", hash_table.CONSTANT),
        ({"out_of_range": 1}, "error", hash_table.OUT_OF_RANGE),
        ({"rows_with_repeats": 1}, "error", hash_table.REPEATS),
        ({"unreachable": [7]}, "error", hash_table.UNREACHABLE),
        ({"rows": VOCABULARY - 1}, "error", hash_table.ROWS),
    ],
)
def test_a_damaged_table(facts: dict, severity: str, cause: str) -> None:
    _, findings = run(NAME, hashed(0, facts))
    assert problems(findings) == [(severity, cause)]
    assert findings[0].experts == ([7] if cause == hash_table.UNREACHABLE else [])


@pytest.mark.parametrize(
    ("facts", "severity", "cause", "says"),
    [
        ({"rows": VOCABULARY + 24}, "info", hash_table.ROWS, "the last 24 are never looked up"),
        ({"rows": 900, "reached": 900, "missing": 0}, "info", hash_table.ROWS, "the embedding is padded"),
        ({"rows": 990, "reached": 980, "missing": 4}, "error", hash_table.ROWS, "4 token ids that the tokenizer gives"),
        ({"rows": 990}, "error", hash_table.ROWS, "10 token ids of the embedding have no row"),
        (
            {"reached": 900, "spare": 100, "spare_faults": 60},
            "info",
            hash_table.SPARE,
            "60 rows of tid2eid are damaged",
        ),
        ({"reached": 900, "spare": 100, "spare_only": [3]}, "warning", hash_table.SPARE_ONLY, "expert 3 only in rows"),
    ],
)
def test_rows_that_no_text_reaches(facts: dict, severity: str, cause: str, says: str) -> None:
    checks, findings = run(NAME, hashed(0, facts))
    assert [(found.severity, found.cause) for found in findings] == [(severity, cause)]
    assert says in findings[0].message
    assert checks[0].verdict == ("clean" if severity == "info" else "finding")


def test_the_remedy_for_an_extended_vocabulary_is_to_extend_the_table() -> None:
    (missing,) = run(NAME, hashed(0, {"rows": VOCABULARY - 8}))[1]
    assert "extend tid2eid too: a row of 4 distinct experts for each new token id" in missing.remedy
    (tail,) = run(NAME, hashed(0, {"rows_with_repeats": 8, "tail": 8}))[1]
    assert "the last 8" in tail.remedy
    assert "row of 4 distinct experts" in tail.remedy
    (apart,) = run(NAME, hashed(0, {"rows_with_repeats": 8}))[1]
    assert apart.remedy == "Copy tid2eid from the base checkpoint"


def test_where_every_expert_is_chosen_rows_may_be_equal() -> None:
    everything = hashed(0, {"constant": True})
    router = everything.router.model_copy(update={"top_k": EXPERTS})
    assert run(NAME, everything.model_copy(update={"router": router}))[1] == []
    single = hashed(0, {"constant": True, "all_zero": True})
    router = single.router.model_copy(update={"top_k": 1, "experts": 1, "score_columns": 1})
    assert run(NAME, single.model_copy(update={"router": router}))[1] == []


def test_the_table_is_judged_without_a_forward_pass() -> None:
    scan = hashed(0, {"out_of_range": 3}).model_copy(update={"activations": None})
    _, findings = run(NAME, scan)
    assert problems(findings) == [("error", hash_table.OUT_OF_RANGE)]
    clean = hashed(0).model_copy(update={"activations": None})
    assert run(NAME, clean)[0][0].reason == "needs a forward pass"


def test_a_hash_layer_behind_a_learned_one() -> None:
    _, findings = run(NAME, hashed(0), learned(1), hashed(2), learned(3))
    assert problems(findings) == [("error", hash_boundary.MISPLACED)]
    assert findings[0].layer == 2


def test_experts_off_the_table() -> None:
    use = HashUse(mismatches=3, predicted_counts=[0] * EXPERTS)
    assert problems(run(NAME, hashed(0, hash_use=use))[1]) == [("error", hash_boundary.NOT_USED)]
    counts = load().counts
    counts[0] += 1
    use = HashUse(mismatches=0, predicted_counts=counts)
    _, findings = run(NAME, hashed(0, hash_use=use))
    assert problems(findings) == [("error", hash_boundary.OTHER_LOAD)]
    assert findings[0].experts == [0]
    assert run(NAME, hashed(0, hash_use=None))[0][0].verdict == "skipped"


@pytest.mark.parametrize(("flips", "fires"), [(0.101, True), (0.1, False), (0.09, False)])
def test_flips_behind_the_boundary(flips: float, fires: bool) -> None:
    _, findings = run(NAME, *model({"selection": selection(flips_noise=flips)}))
    assert problems(findings) == ([("warning", hash_boundary.UNSETTLED)] if fires else [])


def test_flips_must_stand_out_from_the_other_layers() -> None:
    others = [learned(i, "sqrtsoftplus", selection=selection(flips_noise=0.08)) for i in range(2, 6)]
    first = learned(1, "sqrtsoftplus", selection=selection(flips_noise=0.24))
    assert problems(run(NAME, hashed(0), first, *others)[1]) == []


@pytest.mark.parametrize("field", ["input_rms", "routed_rms"])
def test_jumps_name_the_layer_that_is_off(field: str) -> None:
    usual = getattr(magnitudes(), field)
    for factor, fires in ((5.1, True), (4.9, False), (1 / 5.1, True)):
        off = magnitudes(**{field: usual * factor})
        found = run(NAME, *model({"magnitudes": off}))[1]
        assert [(f.cause, f.layer) for f in found] == ([(hash_boundary.JUMP, 2)] if fires else [])
        found = run(NAME, *model(last={"magnitudes": off}))[1]
        assert [(f.cause, f.layer) for f in found] == ([(hash_boundary.JUMP, 1)] if fires else [])


def test_few_learned_layers_are_not_compared() -> None:
    checks, findings = run(NAME, *model({"selection": selection(flips_noise=0.9)}, count=3))
    assert findings == []
    assert "boundary not compared: 3 of 4 learned layers" in checks[2].reason


def test_not_judged() -> None:
    checks, _ = run(NAME, hashed(0, tokens=500), learned(1, tokens=500))
    assert checks[1].reason == "too few tokens: 500 of 1,000"
    broken = hashed(0).model_copy(
        update={"router": hashed(0).router.model_copy(update={"verified": False, "reason": "it fired twice"})}
    )
    check = run(NAME, broken)[0][0]
    assert (check.verdict, check.reason) == ("failed", "it fired twice")


def test_jumps_must_stand_out_from_the_other_layers() -> None:
    others = [learned(i, "sqrtsoftplus", magnitudes=magnitudes(routed_rms=0.4 * 2.0 ** (i % 2))) for i in range(2, 6)]
    first = learned(1, "sqrtsoftplus", magnitudes=magnitudes(routed_rms=0.4 * 5.5))
    assert problems(run(NAME, hashed(0), first, *others)[1]) == []


def test_sizes_that_were_not_measured_are_not_compared() -> None:
    unknown = {"magnitudes": magnitudes(routed_rms=None, input_rms=9.0)}
    found = run(NAME, *model(unknown))[1]
    assert [(f.cause, f.layer, f.quantity) for f in found] == [
        (hash_boundary.JUMP, 2, "step in the size of the router input")
    ]
    assert run(NAME, *model({"magnitudes": None}))[1] == []


@pytest.mark.parametrize(
    ("share", "severity"),
    [(0.25, None), (0.399, None), (0.41, "warning"), (0.62, "warning"), (0.63, "error"), (1.0, "error")],
)
def test_a_table_that_favours_an_expert(share: float, severity: str | None) -> None:
    """An even table sends a quarter of the ids to each of 16 experts when 4 are chosen."""
    _, findings = run(NAME, hashed(0, {"busiest": Busiest(expert=6, share=share)}))
    assert problems(findings) == ([(severity, SKEWED)] if severity else [])
    assert all(found.experts == [6] for found in findings)


def test_a_short_table_is_uneven_by_chance() -> None:
    busiest = Busiest(expert=6, share=0.45)
    assert run(NAME, hashed(0, {"busiest": busiest, "rows": 100, "vocabulary": 100}))[1] == []
    # A damaged table says so once.
    both = hashed(0, {"busiest": Busiest(expert=0, share=1.0), "all_zero": True, "constant": True})
    assert problems(run(NAME, both)[1]) == [("error", hash_table.ALL_ZERO)]
