"""Answers: the measurements of specialisation in words, one verdict a question."""

from collections.abc import Mapping, Sequence
from statistics import median

from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import QUESTIONS, Answer, AnswerVerdict, Information, RouterSpecialisation

SLIGHT = 0.01
"""Share of the routing entropy below which an effect beyond chance is called slight: with enough texts any difference
is beyond chance."""

Layer = tuple[Router, RouterSpecialisation]


def answer_all(layers: Sequence[Layer], unanswered: Mapping[str, str]) -> list[Answer]:
    """One answer to each question.

    Args:
        layers: the routers that saw tokens.
        unanswered: why a question cannot be answered from the texts, by question.

    """
    return [_answer(question, layers, unanswered.get(question)) for question in QUESTIONS]


def _answer(question: str, layers: Sequence[Layer], why_not: str | None) -> Answer:
    measured = [(router, one.information[question]) for router, one in layers if question in one.information]
    if why_not or not measured:
        return Answer(question=question, verdict="not answered", sentence=why_not or "no router saw such tokens")
    hashed = [one for router, one in measured if router.kind == "hash"]
    learned = [one for router, one in measured if router.kind != "hash"]
    fixed = _fixed(question, hashed)
    if not learned:
        return Answer(question=question, verdict=_verdict(hashed), sentence=fixed or _sentence(hashed, "hash layers"))
    sentence = _sentence(learned, "layers with a learned router" if hashed else "layers")
    return Answer(question=question, verdict=_verdict(learned), sentence="; ".join(filter(None, (sentence, fixed))))


def _verdict(seen: Sequence[Information]) -> AnswerVerdict:
    beyond = [one for one in seen if one.beyond_chance]
    if not beyond:
        return "no"
    if all(one.total for one in seen):
        return "total"
    return "yes" if max(one.share for one in beyond) >= SLIGHT else "hardly"


def _sentence(seen: Sequence[Information], layers: str) -> str:
    shares = sorted(one.share for one in seen)
    beyond = sum(one.beyond_chance for one in seen)
    typical = f"{_percent(median(shares))} of routing entropy"
    spread = f" (median; {_percent(shares[0])} to {_percent(shares[-1])})" if len(shares) > 1 else ""
    where = f"all {beyond}" if beyond == len(seen) else f"{beyond or 'none'} of {len(seen)}"
    return f"{typical}{spread}, beyond chance in {where} {layers}"


def _fixed(question: str, hashed: Sequence[Information]) -> str:
    """What the hash layers show about the token id, which a fixed table looks up."""
    if question != "token id" or not hashed:
        return ""
    number = f"{len(hashed)} hash layer" + ("" if len(hashed) == 1 else "s")
    total = sum(one.total for one in hashed)
    if total == len(hashed):
        return (
            f"in the {number} it is total: a fixed table looks the experts up by the token id, and nothing else decides"
        )
    return (
        f"in the {number} it should be total, but {len(hashed) - total} of them sent one token id to different experts"
    )


def _percent(share: float) -> str:
    """A share of the whole in per cent; what is below chance is 0."""
    value = 100 * max(share, 0.0)
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %" if value >= 0.05 else "0 %"
