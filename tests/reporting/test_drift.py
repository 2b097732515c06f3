"""The chapter of a comparison."""

import re
from typing import Any

from moeprobe.findings.drift import FactChange, LoadShift, LostExpert, Pruning, Receiver, Renumbering
from moeprobe.findings.numbers import Interval
from moeprobe.findings.result import Result
from moeprobe.reporting.drift import against_base, nearest
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.github import step_summary
from moeprobe.reporting.markdown import render, write
from moeprobe.reporting.report import report
from tests.detectors.drifted import BASE, drift, interval
from tests.reporting import samples


def compared(whole: Result, base: dict[str, Any] | None = None, **last: Any) -> Result:
    """A result with the drift of a gentle fine-tune in every layer; ``last`` changes that of the last one."""
    routers = [one.model_copy(update={"drift": drift()}) for one in whole.evidence.routers]
    routers[-1] = routers[-1].model_copy(update={"drift": drift(**last)})
    update = {"routers": routers, "base": BASE.model_copy(update=base or {})}
    return whole.model_copy(update={"evidence": whole.evidence.model_copy(update=update)})


def chapter(result: Result) -> str:
    """The chapter alone, as Markdown."""
    return write(against_base(result, {}))


def test_no_chapter_without_a_base() -> None:
    whole = samples.healthy()
    assert against_base(whole, pictures(whole)) == ()
    assert "Against the base" not in render(whole)
    assert "drift" not in pictures(whole)


def test_it_stands_after_the_findings() -> None:
    text = write(report(compared(samples.sick())))
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[:3] == ["Findings", "Against the base model", "The model at a glance"]
    assert "![Against the base by depth" in text


def test_numbers_stand_beside_their_intervals_and_floors() -> None:
    text = chapter(compared(samples.healthy(), overlap=interval(0.31, 0.02)))
    (row,) = [line for line in text.splitlines() if "0.31 (0.29 to 0.33)" in line]
    assert "0.034 (0.024 to 0.044)" in row
    assert "0.0765" in row
    assert "| table rows changed" not in text, "no router has a table"
    assert "at least 31 % of the experts are those of the base (layer 5" in text


def test_facts_and_lost_experts_are_listed() -> None:
    change = FactChange(name="renormalisation", base="on", tuned="off")
    lost = LostExpert(expert=9, load=1.25, tokens=700, receivers=[Receiver(expert=4, share=0.61)])
    gone = Pruning(kept=[0, 1], gone=[lost], together=True)
    text = chapter(compared(samples.healthy(), facts=[change], gate_same=True, experts_changed=3, pruning=gone))
    assert "renormalisation: off, was on" in text
    assert "1.25 | 700" in re.sub(" +", " ", text)
    assert "61 % 4" in text
    assert "What differs before" not in chapter(compared(samples.healthy(), gate_same=True, bias_same=True))


def test_moved_and_shifted_experts_are_listed() -> None:
    shift = LoadShift(expert=7, base=1.5, tuned=0.1, ratio=Interval(value=0.07, low=0.05, high=0.09))
    order = Renumbering(now=[1, 0, 2], likeness=0.97, likeness_as_is=0.1)
    text = chapter(compared(samples.healthy(), shifts=[shift], renumbering=order))
    assert "0.07 (0.05 to 0.09)" in text
    assert "0 to 1, 1 to 0" in text


def test_long_models_are_folded() -> None:
    assert "<summary>Drift by layer</summary>" in chapter(compared(samples.large()))
    assert "<summary>Drift by layer</summary>" not in chapter(compared(samples.healthy()))


def test_the_summary_of_a_step_holds_it() -> None:
    whole = compared(samples.healthy())
    assert chapter(whole).strip() in step_summary(whole)


def test_names_from_outside_are_escaped() -> None:
    hostile = dict.fromkeys(("name", "source", "revision", "dtype", "saved", "tokenizer"), samples.HOSTILE)
    text = render(compared(samples.hostile(), hostile))
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(http", outside)
    assert set(re.findall(r"<(/?\w+)", outside)) <= {"details", "/details", "summary", "/summary", "code", "/code"}


def test_nothing_compared_is_said() -> None:
    whole = samples.healthy()
    bare = whole.model_copy(update={"evidence": whole.evidence.model_copy(update={"base": BASE})})
    assert nearest(bare) == "No router could be compared with the base."
    assert nearest(bare) in chapter(bare)
