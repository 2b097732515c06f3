"""Numbers, ranges and names as they are printed."""

import math

import pytest

from moeprobe.findings.evidence import Interval
from moeprobe.reporting.escape import code, fence, inline, plain, prose
from moeprobe.reporting.words import amount, interval, measured_and_limit, number, plural, ranges, span


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.0, "0"),
        (True, "yes"),
        (12345, "12,345"),
        (0.01, "0.01"),
        (1.23456, "1.23"),
        (1234.5, "1,234"),
        (-102.9, "-103"),
        (0.0000123, "1.23e-5"),
        (4.21e9, "4.21e9"),
        (math.nan, "NaN"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_are_short_and_never_invented(value: float | None, text: str) -> None:
    assert number(value) == text


def test_measured_and_limit_print_differently_when_they_differ() -> None:
    assert measured_and_limit(0.010002, 0.01) == ("0.010002", "0.01")
    assert measured_and_limit(None, None) == ("–", "–")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3, 4, 5, 6, 7, 12], "3-7, 12"), ([4], "4"), ([1, 3, 5, 7], "1-7 in steps of 2"), ([], "")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_long_ranges_are_counted() -> None:
    assert ranges([0, 2, 5, 9, 14], most=2) == "0, 2 and 3 more"


def test_small_words() -> None:
    assert plural(1, "check") == "1 check"
    assert plural(0, "check") == "0 checks"
    assert amount(4_210_000_000) == "4.21 billion"
    assert span([0.2, math.nan]) == "0.2, and NaN"
    assert interval(Interval(value=1.5, low=1.0, high=2.0)) == "1.5 (1 to 2)"
    assert interval(Interval(value=1.5)) == "1.5"
    assert interval(None) == "–"


def test_names_are_harmless() -> None:
    assert plain("a\n\tb\x1b[31m") == "a b\N{REPLACEMENT CHARACTER}[31m"
    assert code("model.layers.3.mlp.gate") == "`model.layers.3.mlp.gate`"
    assert code("a|`b`<i>") == "<code>a&#124;&#96;b&#96;&#60;i&#62;</code>"
    assert inline("# <b>[x](y)|*_`$") == "\\# &lt;b&gt;\\[x\\](y)\\|\\*\\_\\`\\$"
    assert inline("1. one") == "1\\. one"
    assert inline("norm_topk_prob") == "norm_topk_prob"
    assert "://" not in inline("see https://example.org")


def test_prose_keeps_code_spans_and_escapes_the_rest() -> None:
    assert prose("Set `norm_topk_prob` to *true*") == "Set `norm_topk_prob` to \\*true\\*"
    assert prose("an odd ` tick") == "an odd \\` tick"


def test_a_fence_cannot_be_closed_from_inside() -> None:
    assert fence("a\n```\nb").startswith("````\n")


def test_rows_may_have_different_columns() -> None:
    from moeprobe.reporting.tables import table, used_columns

    rows = used_columns([{"layer": "1", "a": "–"}, {"layer": "2", "a": "–", "verdict": "clean"}])
    assert rows == [{"layer": "1", "verdict": "–"}, {"layer": "2", "verdict": "clean"}]
    assert "| clean" in table(rows)
