"""The section against the baseline, and the outcome of a check in the terminal."""

import re

import pytest

from moeprobe.findings.baseline import compare
from moeprobe.findings.result import Result, Setting
from moeprobe.findings.verdict import decide
from moeprobe.reporting.formats import FORMAT_NAMES, render
from moeprobe.reporting.markdown import render as markdown
from moeprobe.reporting.terminal import summary
from tests.reporting import samples


def against(base: Result, now: Result) -> Result:
    return now.model_copy(update={"baseline": compare(base, now.checks, now.findings, now.limits)})


def test_without_a_baseline_there_is_no_section() -> None:
    assert "Against the baseline" not in markdown(samples.sick())


def test_new_known_fixed() -> None:
    known = [one for one in samples.sick().findings if one.detector == "flat-scores"]
    base = samples.sick().model_copy(update={"findings": known})
    text = markdown(against(base, samples.sick()))
    section = text.split("## Against the baseline")[1].split("\n## ")[0]
    assert re.search(r"\| new +\| error +\| scale-mismatch \| the whole model", section)
    assert re.search(
        r"\| known +\| error +\| flat-scores +\| layers 2-3, 5 +\| gate weights are \(nearly\) zero", section
    )
    assert text.index("## Findings") < text.index("## Against the baseline") < text.index("## The model at a glance")
    fixed = markdown(against(samples.sick(), samples.healthy()))
    assert re.search(r"\| fixed +\| error +\| flat-scores", fixed)


def test_a_risen_severity_says_what_it_was() -> None:
    mild = [one.model_copy(update={"severity": "warning"}) for one in samples.sick().findings]
    now = against(samples.sick().model_copy(update={"findings": mild}), samples.sick())
    assert "error (was warning)" in markdown(now)
    assert "(was warning)" in summary(now)


def test_the_terminal_says_the_outcome() -> None:
    sick, healthy = samples.sick(), samples.healthy()
    assert summary(sick, verdict=decide(sick)).endswith("FAILED: 5 findings of severity error.")
    assert summary(healthy, verdict=decide(healthy)).endswith("PASSED: no findings of severity error.")
    known = against(sick, sick)
    text = summary(known, verdict=decide(known))
    assert "0 new problems, 7 known, 0 fixed (and notes: 1 known)." in text
    assert text.endswith("PASSED: no new findings of severity error.")


def test_names_in_a_baseline_stay_text() -> None:
    base = samples.sick()
    evil = base.findings[0].model_copy(
        update={"detector": samples.HOSTILE, "cause": samples.HOSTILE, "router": samples.HOSTILE, "layer": None}
    )
    checks = [base.checks[0].model_copy(update={"detector": samples.HOSTILE, "router": samples.HOSTILE})]
    foreign = base.model_copy(
        update={
            "findings": [evil],
            "checks": checks,
            "model": base.model.model_copy(update={"name": samples.HOSTILE, "revision": samples.HOSTILE}),
            "environment": base.environment.model_copy(update={"started": samples.HOSTILE}),
        }
    )
    settings = [Setting(name=samples.HOSTILE, value=samples.HOSTILE, origin=samples.HOSTILE)]
    now = against(foreign, samples.healthy()).model_copy(update={"settings": settings})
    assert now.baseline is not None
    assert now.baseline.unjudged
    section = re.sub(r"^(`{3,}).*?^\1$", "", markdown(now), flags=re.MULTILINE | re.DOTALL)
    assert "evil" in section
    assert "<script" not in section
    assert not re.search(r"(?<!\\)\]\(http", section)
    told = summary(now, verdict=decide(now))
    assert not re.search(r"evil[^\n]*\n\]\(", told)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_format_writes_both(name: str) -> None:
    for result in (samples.sick(), samples.healthy(), against(samples.sick(), samples.healthy())):
        assert render(result, name, decide(result)).strip()
        assert render(result, name).strip()
