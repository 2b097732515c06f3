"""The saved result: nothing is lost, nothing becomes zero, identity does not depend on numbers."""

from pathlib import Path

import pytest

from moeprobe.errors import OutputError
from moeprobe.findings.evidence import Interval
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result, write_text


def finding(**changes: object) -> Finding:
    base = {
        "detector": "flat-scores", "code": "MP101", "severity": "error", "router": "layers.1.gate", "layer": 1,
        "quantity": "std", "measured": 0.001, "limit": 0.01, "message": "flat", "cause": "tiny", "remedy": "restore",
    }  # fmt: skip
    return Finding(**(base | changes))


def test_fingerprint_is_identity_not_numbers() -> None:
    assert finding(measured=0.5, message="other").fingerprint == finding().fingerprint
    for change in ({"router": "layers.2.gate"}, {"cause": "equal rows"}, {"experts": [3]}, {"detector": "sqrt-nan"}):
        assert finding(**change).fingerprint != finding().fingerprint


def test_non_finite_numbers_survive() -> None:
    for value in (float("inf"), float("-inf"), float("nan")):
        again = Interval.model_validate_json(Interval(value=value).model_dump_json())
        assert repr(again.value) == repr(value)


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    for name, text in (("a.json", "{}"), ("b.json", "["), ("c.json", '{"schema_version": 99}'), ("d.json", "[1]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(OutputError, match="does not hold a moeprobe result"):
            Result.load(tmp_path / name)
    with pytest.raises(OutputError, match="Cannot read"):
        Result.load(tmp_path / "missing.json")


def test_write_text_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    write_text(target, "first")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]
