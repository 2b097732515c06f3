"""The report: order of its parts, grouping, escaping, and what was not measured."""

import re

import pytest

from moeprobe.findings.result import Result
from moeprobe.reporting.grouping import notes, problems
from moeprobe.reporting.markdown import render as without_figures
from moeprobe.reporting.markdown import write
from moeprobe.reporting.report import report
from moeprobe.reporting.terminal import router_table, summary
from moeprobe.reporting.verdict import verdict
from tests.reporting import samples

RESULTS = {
    build.__name__: build
    for build in (samples.healthy, samples.sick, samples.large, samples.weights_only, samples.hostile)
}


def render(result: Result) -> str:
    return write(report(result))


@pytest.fixture(scope="module", params=RESULTS)
def result(request: pytest.FixtureRequest) -> Result:
    return RESULTS[request.param]()


def test_parts_stand_in_the_order_of_a_reader() -> None:
    headings = re.findall(r"^## (.*)$", render(samples.sick()), re.MULTILINE)
    assert headings == [
        "Findings",
        "The model at a glance",
        "Evidence, detector by detector",
        "What was not checked",
        "How it was measured",
        "Tables",
    ]


def test_a_clean_report_says_so_at_once() -> None:
    top = render(samples.healthy()).split("## ")[0]
    assert "No problems in 6 routers; 28 checks clean, 2 skipped." in top
    assert len(top.splitlines()) <= 6
    assert "## Findings" not in render(samples.healthy())


def test_one_fault_on_many_layers_is_one_block() -> None:
    first = problems(samples.sick())[0]
    assert [finding.layer for finding in first.findings] == [2, 3, 5]
    assert first.worst.layer == 3
    text = render(samples.sick())
    assert "### 1. Error: flat-scores (MP101), layers 2-3, 5" in text
    assert text.count("flat-scores (MP101)") >= 1
    assert text.count("### ") - text.count("#### ") < 20


def test_consequences_hang_below_their_cause() -> None:
    groups = problems(samples.sick())
    assert [group.worst.detector for group in groups] == [
        "flat-scores",
        "scale-mismatch",
        "bias-runaway",
        "brand-new",
    ]
    assert [below.worst.detector for below in groups[0].consequences] == ["sqrt-nan"]
    assert [group.worst.layer for group in notes(samples.sick())] == [2]
    assert verdict(samples.sick()).startswith("4 problems (2 errors, 2 warnings) in 5 of 6 routers")


def test_a_chain_of_consequences_ends_at_its_start() -> None:
    base = samples.sick()
    end = base.findings[-1].model_copy(update={"router": samples.path(5), "follows": samples.path(4), "layer": 5})
    middle = next(one for one in base.findings if one.follows)
    chain = [one for one in base.findings if one.detector == "flat-scores" and one.layer == 3] + [middle, end]
    groups = problems(base.model_copy(update={"findings": chain}))
    assert len(groups) == 1
    assert len(groups[0].consequences) == 2


def test_a_consequence_without_its_cause_stands_alone() -> None:
    base = samples.sick()
    orphan = [one for one in base.findings if one.follows]
    assert len(problems(base.model_copy(update={"findings": orphan}))) == 1


def test_nothing_checked_is_not_called_clean() -> None:
    empty = samples.healthy().model_copy(update={"checks": []})
    assert verdict(empty).startswith("Nothing was checked")


def test_every_table_has_as_many_cells_in_each_row(result: Result) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", render(result) + "\n", re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_names_from_outside_stay_text() -> None:
    text = render(samples.hostile())
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(http", outside)
    assert "**b**" not in outside
    assert set(re.findall(r"<(/?\w+)", outside)) <= {"details", "/details", "summary", "/summary", "code", "/code"}


def test_details_are_closed(result: Result) -> None:
    text = render(result)
    assert text.count("<details>") == text.count("</details>") == text.count("</summary>\n\n")


def test_what_was_not_measured_is_never_zero() -> None:
    text = render(samples.weights_only())
    assert "figures/load.svg" not in text
    assert "MaxVio" not in text
    assert "No texts were read" in text
    assert "weights only" in text
    assert "None" not in text
    hashed = [line for line in render(samples.healthy()).splitlines() if re.match(r"\| +0 \| –", line)]
    assert hashed, "a hash layer has no margin, so its cell must be a dash"


def test_unknown_detectors_have_verdicts_but_no_table() -> None:
    text = render(samples.sick())
    assert "brand-new: 1 with a finding, 5 clean" in text


def test_skipped_checks_are_grouped_by_reason() -> None:
    part = render(samples.weights_only()).split("## What was not checked")[1].split("## ")[0]
    assert len(re.findall(r"needs a forward pass", part)) == 2
    assert "layers 0-5" in part


def test_the_terminal_gets_plain_lines(result: Result) -> None:
    text = summary(result)
    assert text.startswith(verdict(result))
    assert not re.search(r"[\x00-\x09\x0b-\x1f]|`model|\\", text)
    assert all(len(line) <= 240 for line in text.splitlines())
    rules, *_ = router_table([one.router for one in result.evidence.routers]).split("\n\n")
    assert rules.count("\n") <= 5


def test_the_report_is_a_function_of_the_saved_result(result: Result, tmp_path: object) -> None:
    path = result.save(f"{tmp_path}/result.json")
    assert render(Result.load(path)) == render(result)


def test_markdown_alone_refers_to_no_file(result: Result) -> None:
    assert "figures/" not in without_figures(result)
    assert without_figures(result).count("<details>") == render(result).count("<details>")
