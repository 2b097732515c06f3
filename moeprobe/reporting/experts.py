"""The chapter *What the experts do*: answers in words, then the numbers behind them, for readers new to them."""

from collections.abc import Sequence

from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.findings.specialisation import QUESTIONS, FrequentToken, Information, LabelUse, Pair, RouterSpecialisation
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.depth import Depth, depth
from moeprobe.reporting.devices import balance, capacity, devices
from moeprobe.reporting.document import Document, Figure, Heading, bullets, folded, joined, table, used_columns
from moeprobe.reporting.figures_experts import strongest_layer
from moeprobe.reporting.text import code, plain, strong
from moeprobe.reporting.words import MISSING, interval, number, percent

_LAYERS, _EXPERTS = 6, 32
"""Layers, and experts of a layer, whose tokens are listed; result.json has all."""

_INTRO = (
    "In every routed layer each token of text is sent to a few experts of many. Two tokens that resemble each other"
    " should go to similar experts; the question is in what way they must resemble each other. Each question below "
    "asks: if only this one thing is known about a token, how much of the uncertainty about its experts goes away? "
    "That uncertainty is the routing entropy (in nats; ln of the number of experts if all are used alike). What "
    "chance alone would seem to explain on this amount of text is taken off. A token has several experts and a "
    "label can at best name all of them, so not even full knowledge reaches 100 % of the entropy; the tables also "
    "give the share of what can be reached."
)
_LABELS = (
    "The share of the tokens of one kind of text that use one expert (OLMoE's domain specialisation), at the expert"
    " they use most. Beside it, in brackets, what comes out if the labels are dealt to the documents at random. "
    "Labels overlap: a language may be the language of one source alone, and kinds of text differ in their words."
)
_TOKENS = (
    "Over token ids seen often: the largest share of an id's occurrences that go to one expert (vocabulary "
    "specialisation, OLMoE), and the standard deviation of its use over the experts (OpenMoE). Both are far from 0 "
    "even where ids do not matter, so compare them with the chance beside them: the same after the choices of each "
    "document were turned in a circle, so that every token has those of another."
)
_PAIRS = (
    "Which experts are chosen for the same token, over all pairs. Expected is what independent choices with the "
    "same loads give, k different experts a token. The distance is the share of pairs that would have to move to "
    "get there; the floor is what independent tokens would show by sampling (texts repeat themselves, so a little "
    "more is still chance)."
)
_REPEATS = (
    "How often a token goes where the token before it went (Mixtral's table 5). Even: what even and independent "
    "routing gives. Shuffled: the same tokens of a document in random order, which is the chance to compare with: "
    "uneven load and a document's taste repeat experts, too. What is above it is due to the neighbourhood."
)


def experts(result: Result, pictures: dict[str, Picture]) -> Document:
    """All parts; empty where the recipe did not ask for the chapter."""
    whole = result.evidence.specialisation
    routers = [one for one in result.evidence.routers if one.specialisation]
    if whole is None:
        return ()
    said = [f"{strong(_title(one.question, one.verdict))} {plain(one.sentence)}." for one in whole.answers]
    axis = depth(result.evidence.routers)
    return joined(
        Heading(2, "What the experts do"),
        _INTRO,
        bullets(said),
        _figure(pictures.get("specialisation")),
        *(folded(f"{q.capitalize()}, layer by layer", _information(q, routers, axis)) for q in QUESTIONS),
        _labels(result, routers, axis, pictures.get("sources")),
        _tokens(routers, axis),
        _pairs(routers, axis),
        _repeats(routers, axis),
        capacity(routers, axis, pictures.get("drops")),
        balance(routers, axis, whole.transformers_balance_loss),
        devices(routers, axis),
    )


def _title(question: str, verdict: str) -> str:
    return f"{question.capitalize()}: {verdict}" + (":" if verdict == "not answered" else ".")


def _figure(picture: Picture | None) -> Document:
    return (Figure(picture),) if picture else ()


def _seen(routers: Sequence[RouterEvidence]) -> list[tuple[str, RouterSpecialisation]]:
    return [(one.router.path, one.specialisation) for one in routers if one.specialisation]


def _information(question: str, routers: Sequence[RouterEvidence], axis: Depth) -> Document:
    rows = []
    for path, seen in _seen(routers):
        found: Information | None = seen.information.get(question)
        if found:
            rows.append(
                {
                    axis.heading: axis.names[path],
                    "nats, chance taken off (99 %)": interval(found.excess),
                    "as counted": number(found.plugin),
                    "by chance, at most": number(found.bound),
                    "routing entropy": number(found.entropy),
                    "share of entropy": percent(found.share),
                    "of what can be reached": percent(found.of_possible),
                    "beyond chance": number(found.beyond_chance),
                    "labels": number(found.labels),
                    "tokens": number(found.tokens),
                }
            )
    return table(rows)


def _labels(result: Result, routers: Sequence[RouterEvidence], axis: Depth, picture: Picture | None) -> Document:
    sheets = []
    for question in ("source", "language", "task"):
        found = [(path, seen.labels[question]) for path, seen in _seen(routers) if question in seen.labels]
        names = dict.fromkeys(use.label for _, uses in found for use in uses)
        rows = []
        for path, uses in found:
            by_name = {use.label: use for use in uses}
            cells = {plain(name): _use(by_name.get(name)) for name in names}
            rows.append({axis.heading: axis.names[path]} | cells)
        sheets.append(folded(f"By {question}: share of tokens at the expert used most (by chance)", table(rows)))
    if not any(sheets):
        return ()
    return joined(Heading(3, "Kinds of text"), _LABELS, _example(result, axis), _figure(picture), *sheets)


def _use(use: LabelUse | None) -> str:
    return f"{percent(use.share)} at expert {use.expert} ({percent(use.chance)})" if use else MISSING


def _example(result: Result, axis: Depth) -> str:
    """The strongest source of the strongest layer, as a sentence."""
    found = strongest_layer(result)
    uses = found.specialisation.labels.get("source") if found and found.specialisation else None
    if found is None or not uses:
        return ""
    top = max(uses, key=lambda use: use.share - use.chance)
    return (
        f"For example, in {axis.heading} {axis.names[found.router.path]} {percent(top.share)} of the tokens of "
        f"{code(top.label)} use expert {top.expert}; with labels dealt at random it would be {percent(top.chance)}, "
        f"with even use {percent(found.router.top_k / max(found.router.experts, 1))}."
    )


def _tokens(routers: Sequence[RouterEvidence], axis: Depth) -> Document:
    found = [(path, seen.tokens) for path, seen in _seen(routers) if seen.tokens]
    if not found:
        return ()
    rows = [
        {
            axis.heading: axis.names[path],
            "token ids": number(use.ids),
            "seen at least": number(use.occurrences),
            "vocabulary specialisation": percent(use.vocabulary),
            "by chance": percent(use.vocabulary_chance),
            "routing std at an id": number(use.spread),
            "std by chance": number(use.spread_chance),
        }
        for path, use in found
    ]
    step = max(1, -(-len(found) // _LAYERS))
    lists = [
        folded(f"Tokens that an expert attracts, {axis.heading} {axis.names[path]}", _top(use.top))
        for path, use in found[::step]
    ]
    hint = f"A space is written ␣, a line end ⏎. At most {_EXPERTS} experts of some layers; result.json has all."
    return joined(Heading(3, "Single tokens"), _TOKENS, table(rows), hint, *lists)


def _top(lists: Sequence[Sequence[FrequentToken]]) -> Document:
    rows = [
        {"expert": str(place), "tokens, and the share of their occurrences that use it": ", ".join(map(_token, tokens))}
        for place, tokens in enumerate(lists)
        if tokens
    ]
    return table(rows[:_EXPERTS])


def _token(token: FrequentToken) -> str:
    seen = token.text.replace(" ", "␣").replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")
    return f"{code(seen)} {percent(token.share)}"


def _pairs(routers: Sequence[RouterEvidence], axis: Depth) -> Document:
    found = [(path, seen.coactivation) for path, seen in _seen(routers) if seen.coactivation]
    rows = [
        {
            axis.heading: axis.names[path],
            "distance from independence": percent(one.distance),
            "floor": percent(one.floor),
            "more often together (expected)": "; ".join(map(_pair, one.attracted[:3])) or MISSING,
            "less often together (expected)": "; ".join(map(_pair, one.repelled[:3])) or MISSING,
        }
        for path, one in found
    ]
    return joined(Heading(3, "Experts that work together"), _PAIRS, table(rows)) if rows else ()


def _pair(pair: Pair) -> str:
    return f"{pair.first} and {pair.second}: {percent(pair.share)} of tokens ({percent(pair.expected)})"


def _repeats(routers: Sequence[RouterEvidence], axis: Depth) -> Document:
    found = [(path, seen.repeats) for path, seen in _seen(routers) if seen.repeats]
    if not found:
        return ()
    rows = [
        {
            axis.heading: axis.names[path],
            "same first expert (99 %)": interval(one.first),
            "shuffled": number(one.first_chance),
            "even": number(one.first_even),
            "any expert shared (99 %)": interval(one.either),
            "any shuffled": number(one.either_chance),
            "any even": number(one.either_even),
            "share of experts shared (99 %)": interval(one.overlap),
            "share shuffled": number(one.overlap_chance),
        }
        for path, one in found
    ]
    by_source = [
        {axis.heading: axis.names[path]} | {plain(name): number(value) for name, value in one.first_by_source.items()}
        for path, one in found
    ]
    return joined(
        Heading(3, "Consecutive tokens"),
        _REPEATS,
        table(rows),
        folded("Same first expert, by source", table(used_columns(by_source))),
    )
