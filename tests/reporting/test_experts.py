"""The chapter *What the experts do*, from numbers made up for it."""

import pytest

from moeprobe.findings.numbers import Interval
from moeprobe.findings.result import Result
from moeprobe.findings.specialisation import (
    QUESTIONS,
    Answer,
    Capacity,
    CoActivation,
    Drops,
    FrequentToken,
    Information,
    LabelUse,
    Pair,
    Placement,
    Placements,
    Repeats,
    RouterSpecialisation,
    Specialisation,
    TokenUse,
    TrainingLosses,
)
from moeprobe.reporting.experts import experts
from moeprobe.reporting.figures import pictures
from moeprobe.reporting.formats import render
from tests.reporting import bad, samples
from tests.reporting.test_html import parsed

FIGURES = ("specialisation", "sources", "drops")


def information(share: float) -> Information:
    return Information(
        labels=8, documents=56, tokens=5_000, plugin=2 * share + 0.1, null_mean=0.1, null_spread=0.01, bound=0.12,
        bias=0.1, excess=Interval(value=2 * share, low=share, high=3 * share), entropy=2.0, possible=1.1,
    )  # fmt: skip


def specialised(dropping: bool = False) -> Result:
    whole = samples.sick()
    tenths = [place / 20 for place in range(10)]
    drops = [] if dropping else [Drops(factor=f, group="sequence", share=0.2 / f, by_tenth=tenths) for f in (1.0, 1.25)]
    seen = RouterSpecialisation(
        information={question: information(0.21) for question in QUESTIONS},
        labels={"source": [LabelUse(label="code", tokens=900, expert=3, share=0.9, chance=0.4)]},
        tokens=TokenUse(
            ids=2, occurrences=128, tokens=400, vocabulary=0.9, vocabulary_chance=0.5, spread=0.1, spread_chance=0.05,
            top=[[FrequentToken(id=5, text=" the\n", share=0.8)], []],
        ),
        coactivation=CoActivation(
            tokens=900, distance=0.2, floor=0.01, attracted=[Pair(first=0, second=6, share=0.06, expected=0.03)],
            repelled=[],
        ),
        repeats=Repeats(
            pairs=899, first=Interval(value=0.3), first_chance=0.2, first_even=0.0625, either=Interval(value=0.9),
            either_chance=0.8, either_even=0.7, overlap=Interval(value=0.4), overlap_chance=0.3,
            first_by_source={"code": 0.3},
        ),
        capacity=Capacity(
            assignments=3_600, simulated=drops, measured=0.225 if dropping else None,
            measured_by_tenth=tenths if dropping else None,
        ),
        losses=TrainingLosses(tokens=900, switch=1.2, transformers=4.5, z=9.0, log_sum_exp=0.3, softmax=False),
        placement=Placements(
            plans=[
                Placement(
                    devices=2, contiguous=1.5, packed=1.1, contiguous_sent=1.8, packed_sent=1.9, packing=[0, 1] * 8
                )
            ]
        ),
    )  # fmt: skip
    routers = [one.model_copy(update={"specialisation": seen}) for one in whole.evidence.routers]
    said = [Answer(question=q, verdict="yes", sentence="21 % of routing entropy") for q in QUESTIONS[:-1]]
    said.append(Answer(question="task", verdict="not answered", sentence="no document says its task"))
    found = Specialisation(answers=said, documents={"source": 56}, transformers_balance_loss=4.5)
    evidence = whole.evidence.model_copy(update={"routers": routers, "specialisation": found})
    return whole.model_copy(update={"evidence": evidence})


def test_what_it_says() -> None:
    text = render(specialised(), "markdown")
    for words in (
        "- **Token id: yes.** 21 % of routing entropy.",
        "- **Task: not answered:** no document says its task.",
        "0.42 (0.21 to 0.63)",
        "<code>&#9251;the&#9166;</code> 80 %",
        "0 and 6: 6 % of tokens (3 %)",
        "90 % of the tokens of `code` use expert 3; with labels dealt at random it would be 40 %",
        "| 16 % in layer 0 |",
        "This is a simulation",
        "The routers marked 'no' do not choose by a softmax.",
        "would log a balance loss of 4.5.",
    ):
        assert words in text, words
    assert "does drop tokens" not in text
    assert set(FIGURES) <= set(pictures(specialised()))
    assert all(pictures(specialised())[name].draw().lstrip().startswith("<?xml") for name in FIGURES)


def test_measured_drops_are_marked_as_such() -> None:
    text = render(specialised(dropping=True), "markdown")
    assert "This model does drop tokens when it runs; the shares are measured" in text
    assert "This is a simulation" not in text
    assert "22.5 %" in text
    assert "(measured)" in pictures(specialised(dropping=True))["drops"].alt


def test_a_result_without_the_chapter_has_none() -> None:
    assert experts(samples.sick(), {}) == ()
    assert not set(FIGURES) & set(pictures(samples.sick()))


@pytest.mark.parametrize("spoil", [bad.hostile, bad.nonfinite])
def test_bad_strings_and_numbers(spoil) -> None:  # type: ignore[no-untyped-def]
    spoilt = spoil(specialised())
    text = render(spoilt, "markdown")
    chapter = text.partition("## What the experts do")[2].partition("\n## ")[0]
    assert "Experts on several devices" in chapter
    assert "<script" not in chapter.replace("\\<", "")
    tree = parsed(render(spoilt, "html"))
    assert not tree.findall(".//{*}script")
    drawn = pictures(spoilt)
    assert all("<svg" in drawn[name].draw() for name in FIGURES if name in drawn)
