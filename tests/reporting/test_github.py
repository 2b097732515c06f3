"""Annotations that a runner reads as they were meant, and a summary that fits."""

import re
from pathlib import Path

import pytest

from moeprobe.errors import OutputError
from moeprobe.findings.result import Result
from moeprobe.reporting.github import MOST, SUMMARY_BYTES, append_summary, render, step_summary
from tests.reporting import bad, samples, verdicts

Command = tuple[str, str, str]


def commands(text: str) -> list[Command]:
    """Read the lines as the runner does: level, title and message."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", line)
        assert match, line
        level, title, message = match.groups()
        for code, sign in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            title, message = title.replace(code, sign), message.replace(code, sign)
        found.append((level, title, message))
    return found


def many(count: int, severity: str) -> Result:
    base = samples.sick()
    one = base.findings[0]
    found = [
        one.model_copy(update={"detector": f"d-{n}", "code": f"MP{n}", "severity": severity}) for n in range(count)
    ]
    return base.model_copy(update={"findings": found})


def test_one_annotation_a_detector() -> None:
    result = samples.sick()
    found = commands(render(result))
    titles = [title for _, title, _ in found]
    assert len(titles) == len(set(titles)) == len({one.detector for one in result.findings}) + 1
    flat = next(one for one in found if one[1] == "flat-scores (MP101)")
    assert flat[0] == "error"
    assert "Also found: layers 2, 5" in flat[2]
    assert found[-1][:2] == ("notice", "moeprobe")
    assert found[-1][2].startswith("4 problems (2 errors, 2 warnings)")


def test_percent_signs_and_line_ends_come_back() -> None:
    message = "50 % off:\r\n100%25, ::error::no"
    base = samples.sick()
    one = base.findings[0].model_copy(update={"message": message, "remedy": "do: a, b"})
    (level, _, text), _ = commands(render(base.model_copy(update={"findings": [one]})))
    assert level == "error"
    assert text == "50 % off: 100%25, ::error::no\nTo do: do: a, b"


@pytest.mark.parametrize(("severity", "level"), [("error", "error"), ("warning", "warning"), ("info", "notice")])
def test_no_more_than_github_shows(severity: str, level: str) -> None:
    for count in (MOST - 1, 25):
        found = [one for one in commands(render(many(count, severity))) if one[0] == level]
        assert len(found) <= MOST
        everything = " ".join(title + text for _, title, text in found)
        assert all(f"d-{n} (MP{n})" in everything for n in range(count)), "none is dropped in silence"


def test_a_known_finding_is_only_noticed() -> None:
    result = samples.sick()
    judged = verdicts.against(result)
    levels = {title: level for level, title, _ in commands(render(result, judged))}
    assert levels["flat-scores (MP101)"] == "error", "two layers of it are new"
    only_known = judged.model_copy(update={"failing": [], "known": result.findings, "new": [], "exit_code": 0})
    assert {level for level, _, _ in commands(render(result, only_known))} == {"notice"}


def test_hostile_names_make_no_command() -> None:
    found = commands(render(bad.hostile()))
    assert len(found) == 2
    assert found[0][0] == "error"


def test_the_summary_is_the_short_report() -> None:
    result = samples.sick()
    text = step_summary(verdicts.compared(result), verdicts.against(result))
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Findings", "Against the baseline"]
    assert "![" not in text


@pytest.mark.parametrize("room", [3_000, 6_000, SUMMARY_BYTES])
def test_a_summary_is_cut_with_a_word_about_it(room: int) -> None:
    base = samples.sick()
    long = base.findings[0].model_copy(update={"message": "é" * (room // 4)})
    found = [long.model_copy(update={"detector": f"d-{n}", "cause": f"{n}"}) for n in range(9)]
    text = step_summary(base.model_copy(update={"findings": found}), room=room)
    assert len(text.encode()) <= room
    assert text.startswith("# Routing of `moe-sample`")
    assert "Cut here, since GitHub takes at most 1 MiB" in text
    kept = len(re.findall(r"^### \d", text, re.MULTILINE))
    told = re.search(r"left out: (\d. Error: d-\d \(MP101\), layer 2(?:; )?)* ?(?:and (\d) more)?", text)
    assert told
    assert kept + told.group().count("Error: d-") + int(told.group(2) or 0) == 9
    assert text.count("<details>") == text.count("</details>")


def test_the_summary_is_appended_and_never_too_large(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    environ = {"GITHUB_STEP_SUMMARY": str(file)}
    append_summary(samples.healthy(), None, environ)
    once = file.read_text(encoding="utf-8")
    assert once == step_summary(samples.healthy())
    append_summary(samples.healthy(), None, environ)
    assert file.read_text(encoding="utf-8") == once * 2
    file.write_text("x" * (SUMMARY_BYTES - 100))
    append_summary(samples.sick(), None, environ)
    assert file.stat().st_size <= SUMMARY_BYTES
    append_summary(samples.sick(), None, {})
    with pytest.raises(OutputError, match="Unset GITHUB_STEP_SUMMARY"):
        append_summary(samples.sick(), None, {"GITHUB_STEP_SUMMARY": str(tmp_path)})
