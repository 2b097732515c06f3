"""Numbers, ranges and names as they are printed."""

import math

import pytest

from moeprobe.findings.evidence import Interval
from moeprobe.reporting.markdown import fence, line, text
from moeprobe.reporting.text import Piece, bare, code, pieces, plain, prose, strong
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
    assert plain("a\u202eb") == "a\N{REPLACEMENT CHARACTER}b"
    assert text(code("model.layers.3.mlp.gate")) == "`model.layers.3.mlp.gate`"
    assert text(code("a|`b`<i>")) == "<code>a&#124;&#96;b&#96;&#60;i&#62;</code>"
    assert line("# <b>[x](y)|*_`$") == "\\# &lt;b&gt;\\[x\\](y)\\|\\*\\_\\`\\$"
    assert line("1. one") == "1\\. one"
    assert text("norm_topk_prob") == "norm_topk_prob"
    assert "://" not in text("see https://example.org")


def test_a_name_cannot_bring_its_own_marks() -> None:
    assert [piece.strong for piece in pieces(plain("\x02loud\x03"))] == [False]
    assert list(pieces(code("a\x0f<b>"))) == [Piece("a\N{REPLACEMENT CHARACTER}<b>", name=True)]
    assert list(pieces(strong(f"x {code('y')}"))) == [Piece("x ", strong=True), Piece("y", name=True, strong=True)]
    assert bare(f"{strong('a')} {code('b')}") == "a b"


def test_prose_keeps_code_spans_and_escapes_the_rest() -> None:
    assert text(prose("Set `norm_topk_prob` to *true*")) == "Set `norm_topk_prob` to \\*true\\*"
    assert text(prose("an odd ` tick")) == "an odd \\` tick"


def test_a_fence_cannot_be_closed_from_inside() -> None:
    assert fence("a\n```\nb").startswith("````\n")
    assert fence("  a\n\tb\x1b[2J") == "```\n  a\n    b\N{REPLACEMENT CHARACTER}[2J\n```"


def test_rows_may_have_different_columns() -> None:
    from moeprobe.reporting.document import Table, table, used_columns

    rows = used_columns([{"layer": "1", "a": "–"}, {"layer": "2", "a": "–", "verdict": "clean"}])
    assert rows == [{"layer": "1", "verdict": "–"}, {"layer": "2", "verdict": "clean"}]
    assert table(rows) == (Table(("layer", "verdict"), (("1", "–"), ("2", "clean")), (True, False)),)
