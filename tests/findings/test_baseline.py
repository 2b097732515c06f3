"""New, known and fixed: by identity, never by numbers; and baselines that were measured in another way."""

import re

import pytest

from moeprobe.errors import BaselineError
from moeprobe.findings.baseline import Comparison, compare, refuse_other_measurement, refuse_other_probe
from moeprobe.findings.finding import Check, Finding
from moeprobe.findings.result import Result
from moeprobe.findings.verdict import decide
from moeprobe.recipe import load_recipe
from tests.findings.test_result import finding
from tests.reporting import samples


def result(*findings: Finding, checks: list[Check] | None = None, **changes: object) -> Result:
    judged = [Check(detector=f.detector, router=f.router, verdict="finding") for f in findings]
    base = samples.healthy()
    return base.model_copy(
        update={"findings": list(findings), "checks": judged if checks is None else checks} | changes
    )


def against(base: Result, now: Result) -> Comparison:
    return compare(base, now.checks, now.findings, now.limits)


def clean(detector: str = "flat-scores", router: str | None = "layers.1.gate") -> Check:
    return Check(detector=detector, router=router, verdict="clean")


def test_the_same_fault_is_known_whatever_its_number() -> None:
    now = finding(measured=0.009, message="other words")
    compared = against(result(finding()), result(now))
    assert (compared.new, compared.known, compared.fixed) == ([], [now.fingerprint], [])


@pytest.mark.parametrize(
    "change",
    [{"router": "layers.2.gate"}, {"cause": "equal rows"}, {"detector": "sqrt-nan"}],
    ids=lambda c: next(iter(c)),
)
def test_another_place_cause_or_detector_is_new(change: dict[str, object]) -> None:
    now = finding(**change)
    compared = against(result(finding()), result(now))
    assert (compared.new, compared.known) == ([now.fingerprint], [])


def test_a_severity_that_rose_is_new_and_one_that_fell_is_known() -> None:
    mild, severe = finding(severity="warning"), finding(severity="error")
    risen = against(result(mild), result(severe))
    assert (risen.new, risen.risen) == ([severe.fingerprint], {severe.fingerprint: "warning"})
    assert risen.fixed == []
    fallen = against(result(severe), result(mild))
    assert (fallen.new, fallen.known) == ([], [mild.fingerprint])


@pytest.mark.parametrize(
    ("before", "now", "new", "fixed"),
    [
        ([3, 5], [3], False, False),  # one of two is left: known
        ([3], [3, 5], True, False),  # one more: new, and the old one is still there
        ([3], [7], True, True),
        ([], [7], False, False),  # the whole router before, a part of it now
        ([7], [], True, False),
    ],
)
def test_experts(before: list[int], now: list[int], new: bool, fixed: bool) -> None:
    compared = against(result(finding(experts=before)), result(finding(experts=now)))
    assert (bool(compared.new), bool(compared.fixed)) == (new, fixed)


@pytest.mark.parametrize(
    ("checks", "fixed"),
    [
        ([clean()], True),
        ([Check(detector="flat-scores", router="layers.1.gate", verdict="skipped", reason="too few tokens")], False),
        ([clean("sqrt-nan")], False),
        ([clean(router="layers.9.gate")], False),
    ],
    ids=["judged", "skipped", "not run", "another router"],
)
def test_fixed_only_where_the_detector_judged(checks: list[Check], fixed: bool) -> None:
    compared = against(result(finding()), result(checks=checks))
    assert (len(compared.fixed), len(compared.unjudged)) == ((1, 0) if fixed else (0, 1))


def test_a_baseline_of_fewer_detectors_is_said() -> None:
    base = result(checks=[clean("sqrt-nan")])
    now = result(finding())
    (remark,) = against(base, now).remarks
    assert "did not run flat-scores" in remark
    skipped = result(checks=[clean(router="layers.5.gate")])
    assert any("no answer from flat-scores" in remark for remark in against(skipped, now).remarks)


def test_another_limit_is_said() -> None:
    base = result(finding(), limits={"flat-scores": {"std_error": 0.01}})
    now = result(finding(), limits={"flat-scores": {"std_error": 0.02}})
    assert against(base, now).remarks == ["The limit flat-scores.std_error was 0.01 in the baseline and is 0.02 now."]


def test_only_new_findings_fail() -> None:
    base, now = result(finding()), result(finding(), finding(router="layers.2.gate", severity="warning"))
    judged = now.model_copy(update={"baseline": against(base, now)})
    assert decide(now).exit_code == 1
    assert decide(judged).exit_code == 0
    assert [f.router for f in decide(judged, "warning").failing] == ["layers.2.gate"]
    assert len(decide(judged).known or []) == 1


def test_an_answer_that_is_not_known_is_never_clean() -> None:
    skipped = [Check(detector="hash-boundary", router=None, verdict="skipped", reason="no hash layer")]
    assert decide(result(checks=skipped)).exit_code == 2
    assert decide(result(checks=[])).exit_code == 2
    broken = Check(detector="sqrt-nan", router="layers.1.gate", verdict="failed", reason="the detector itself failed")
    assert decide(result(checks=[clean(), broken])).exit_code == 2
    assert decide(result(checks=[clean(), broken, clean("sqrt-nan", "layers.2.gate")])).exit_code == 0
    assert decide(result(finding(), checks=[broken])).exit_code == 1


def test_a_check_that_the_baseline_could_answer_must_not_get_lost() -> None:
    base = result(checks=[clean(), clean(router="layers.2.gate")])
    failed = Check(detector="flat-scores", router="layers.2.gate", verdict="failed", reason="not verified")
    now = result(checks=[clean(), failed])
    compared = against(base, now)
    assert compared.lost == [("flat-scores", "layers.2.gate")]
    assert decide(now).exit_code == 0
    assert decide(now.model_copy(update={"baseline": compared})).exit_code == 2


def test_a_comparison_survives_its_file(tmp_path: object) -> None:
    base, now = result(finding(measured=float("nan"))), result(checks=[clean()])
    kept = now.model_copy(update={"baseline": against(base, now)})
    path = kept.save(f"{tmp_path}/result.json")
    again = Result.load(path)
    assert again.baseline is not None
    assert again.model_dump_json() == kept.model_dump_json()


def test_another_model_type_or_measurement_is_refused() -> None:
    recipe = load_recipe("quick")
    base = result(recipe=recipe.model_dump())
    kind = base.model.model_type
    refuse_other_measurement(base, kind, recipe)
    free = recipe.model_copy(update={"select": ["MP1"], "limits": {"flat-scores": {"std_error": 1}}, "name": "own"})
    refuse_other_measurement(base, kind, free)
    with pytest.raises(BaselineError, match=f"of type {kind}, and this one is of type other"):
        refuse_other_measurement(base, "other", recipe)
    with pytest.raises(
        BaselineError, match=re.escape("measured with choice.max_tokens = 0, and this analysis with 8192")
    ):
        refuse_other_measurement(base, kind, load_recipe("full"))
    with pytest.raises(BaselineError, match="seed"):
        refuse_other_measurement(base, kind, recipe.model_copy(update={"seed": 3}))


def test_an_older_baseline_had_the_defaults_of_settings_that_it_does_not_know() -> None:
    recipe = load_recipe("quick")
    old = recipe.model_dump()
    del old["seed"]
    refuse_other_measurement(result(recipe=old), samples.healthy().model.model_type, recipe)


def test_other_tokens_are_refused() -> None:
    base = samples.healthy()
    probe = base.evidence.probe
    assert probe is not None
    kept = base.model_copy(
        update={"evidence": base.evidence.model_copy(update={"probe": probe.model_copy(update={"digest": "a"})})}
    )
    refuse_other_probe(kept, probe.model_copy(update={"digest": "a", "name": "the same, elsewhere"}))
    refuse_other_probe(base, probe.model_copy(update={"digest": "a"}))  # kept no digest: the counts decide
    with pytest.raises(BaselineError, match="tokenizers, the vocabularies or the texts differ"):
        refuse_other_probe(kept, probe.model_copy(update={"digest": "b"}))
    with pytest.raises(BaselineError, match="read other texts"):
        refuse_other_probe(kept, probe.model_copy(update={"digest": "a", "sources": {"one": 1}}))
    with pytest.raises(BaselineError, match="read no texts"):
        refuse_other_probe(
            base.model_copy(update={"evidence": base.evidence.model_copy(update={"probe": None})}), probe
        )
