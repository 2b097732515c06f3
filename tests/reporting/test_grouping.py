"""A problem is as severe as the worst that belongs to it, and says so."""

from moeprobe.findings.result import Result
from moeprobe.reporting.grouping import problems
from moeprobe.reporting.terminal import summary
from moeprobe.reporting.verdict import verdict
from tests.reporting import samples


def mild_cause_severe_consequence() -> Result:
    base = samples.sick()
    root = next(one for one in base.findings if one.follows is None and one.router is not None)
    mild = root.model_copy(update={"severity": "warning"})
    severe = root.model_copy(
        update={
            "detector": "overloaded-experts", "code": "MP602", "follows": root.router, "cause": "one set for all",
            "message": "Layer 2: expert 3 is used by all tokens.",
        }
    )  # fmt: skip
    return base.model_copy(update={"findings": [severe, mild]})


def test_a_severe_consequence_is_not_hidden_behind_its_mild_cause() -> None:
    result = mild_cause_severe_consequence()
    (group,) = problems(result)
    assert group.severity == "error"
    assert group.worst.severity == "warning"
    assert [one.title for one in group.grave] == ["overloaded-experts (MP602)"]
    assert verdict(result).startswith("1 problem (1 error) in 1 of 6 routers")
    assert "overloaded-experts (MP602): Layer 2: expert 3 is used by all tokens." in summary(result)


def test_a_mere_consequence_adds_nothing() -> None:
    result = mild_cause_severe_consequence()
    severe, mild = result.findings
    result = result.model_copy(update={"findings": [mild, severe.model_copy(update={"severity": "info"})]})
    (group,) = problems(result)
    assert (group.severity, group.grave) == ("warning", ())
    assert "expert 3" not in summary(result)
