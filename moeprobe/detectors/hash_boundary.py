"""MP501 hash-boundary: the fixed table and the handover to learned routing.

## What it finds

A hash layer whose table `tid2eid` is damaged or not used as it stands, hash layers in the wrong place, and a
first learned layer that is far less settled than the other learned layers.

## Why it matters

Hash layers look their experts up by token id. transformers initialises the table to zeros: a checkpoint that
lost it sends every token to expert 0 several times, with weights that look normal. The table cannot be derived
from anything else in the model; any other one costs loss.

## How it is measured

From the table, exactly: a row for every token id, ids inside the range of experts, distinct experts in a
row, no constant table, every expert reachable, no expert that far more ids name than others, and hash layers
only before the learned ones. On the probe: the recorded experts against the table, and the load that the table
predicts against the measured one. Sums of weights and low scores of hash layers are judged by sqrt-nan.

What counts are the rows that a text can reach: those of the token ids that the tokenizer gives, without its reserved
ones (<|reserved_3|>, [unused7]). Faults in any other row, and rows beyond the embedding, are infos. With the weights
alone the ids are those of the checkpoint's tokenizer.json; without one every row counts.

At the boundary: the share of tokens whose experts change under a relative noise of 2 to the power -8 on the
router's input, and the jumps in the size of the router's input and of the MoE output from the last hash layer
to the first learned one and on to the next, against the same numbers between the other learned layers. A model
has one boundary and early layers differ by nature, so these are proxies and never errors. A layer has no loss
on a static checkpoint; no jitter of a loss is claimed.

## Limits

- `worst_ratio` (3): how far beyond the worst of the other learned layers the boundary must be.
- `flips_warning` (0.1): share of tokens that flip under noise, needed as well.
- `jump_warning` (5): factor between neighbouring layers, needed as well.
- `skew_warning` (0.2), `skew_error` (0.5): how far the share of the ids that name the busiest expert is on the way
  from an even share to all of them. Healthy tables are even over ids.
- `min_learned_layers` (4): learned layers before the boundary is compared with the others.
- `min_tokens` (1000): tokens before the boundary is judged.

## Known false alarms

A table with fewer entries than experts cannot reach all of them; that happens in toy models. Models with very
few learned layers have no worst other layer worth comparing with and are not judged at the boundary.

## What to do

Copy `tid2eid` from the base checkpoint. Where the vocabulary was extended and the table was not, extend the table:
a row of distinct experts for each new token id. For an unsettled boundary compare the first learned gate with the base;
when training, look at the saturation of that layer between checkpoints.

## References

DeepSeek-V4 (hash layers); Hash Layers (arXiv 2106.04426); vllm pull request 50844 (ids out of range).
"""

import math
from itertools import pairwise

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.hash_skew import judge_skew
from moeprobe.detectors.hash_table import judge_table
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.evidence import Activations, Evidence

MISPLACED = "a hash layer comes after a learned one"
NOT_USED = "the recorded experts are not those of the hash table"
OTHER_LOAD = "the measured load is not the one that the hash table predicts"
UNSETTLED = "the first learned layer chooses unstably"
JUMP = "sizes jump at the hash boundary"

_COMPARE = "Compare the layers at the boundary with the base checkpoint"


class HashBoundaryLimits(Limits):
    """Bars of hash-boundary."""

    worst_ratio: float = Field(3, ge=1, description="Boundary over the worst other learned layer")
    flips_warning: float = Field(0.1, gt=0, le=1, description="Tokens that flip under noise of 2**-8")
    jump_warning: float = Field(5, gt=1, description="Factor between neighbouring layers at the boundary")
    skew_warning: float = Field(0.2, gt=0, le=1, description="Excess of the busiest expert over an even share of ids")
    skew_error: float = Field(0.5, gt=0, le=1, description="The same, as an error; healthy tables have about 0")
    min_learned_layers: int = Field(4, ge=2, description="Learned layers before the boundary is compared")
    min_tokens: int = Field(1000, ge=1, description="Tokens before the boundary is judged")


class HashBoundary(Detector[HashBoundaryLimits]):
    """The fixed table and the handover to learned routing."""

    name = "hash-boundary"
    code = "MP501"
    Limits = HashBoundaryLimits

    def judge(self, evidence: Evidence, limits: HashBoundaryLimits) -> Judgement:
        """One check per router, or a single one where there is no hash layer."""
        cases = self.open(evidence, limits)
        hashed = [case for case in cases if case.evidence.router.kind == "hash"]
        learned = [case for case in cases if case.evidence.router.kind == "top-k"]
        if not hashed:
            model = self.open_model(evidence, limits)
            model.skip("no hash layers")
            return Judgement.of([model])
        for case in hashed:
            judge_table(case)
            judge_skew(case)
            _judge_place(case, learned)
            if shown := case.activations():
                _judge_use(case, shown)
        for case in learned[1:]:
            case.skip("not at the hash boundary")
        if learned and all(found.cause != MISPLACED for found in hashed[-1].findings):
            _judge_boundary(hashed[-1], learned)
        return Judgement.of(cases)


def _judge_place(case: Case[HashBoundaryLimits], learned: list[Case[HashBoundaryLimits]]) -> None:
    layer = case.evidence.router.layer
    earlier = [other.evidence.router.layer for other in learned]
    before = [other for other in earlier if other is not None and layer is not None and other < layer]
    if before:
        case.find(
            "error",
            f"this hash layer comes after {listed(before, 'learned layer')}; hash layers are the first ones",
            quantity="learned layers before a hash layer",
            measured=len(before),
            cause=MISPLACED,
            remedy="Check num_hash_layers and the order of the layers against the base checkpoint",
        )


def _judge_use(case: Case[HashBoundaryLimits], shown: Activations) -> None:
    use = shown.hash_use
    if use is None:
        case.skip("the token ids of the probe are not known")
        return
    counts, predicted = shown.load.counts, use.predicted_counts
    width = max(len(counts), len(predicted))
    wrong = [e for e in range(width) if sum(counts[e : e + 1]) != sum(predicted[e : e + 1])]
    if use.mismatches:
        case.find(
            "error",
            f"{number(use.mismatches)} of {number(shown.tokens)} tokens went to other experts than their row of "
            "tid2eid names",
            quantity="tokens off the table",
            measured=use.mismatches,
            cause=NOT_USED,
            remedy="Check that the router receives the token ids (not embeddings alone) and uses this table",
        )
    elif wrong:
        case.find(
            "error",
            f"the measured load of {listed(wrong, 'expert')} differs from what tid2eid predicts",
            quantity="experts with another load than predicted",
            measured=len(wrong),
            cause=OTHER_LOAD,
            remedy="Check that no slot of a chosen expert is dropped or sent elsewhere",
            experts=wrong,
        )


def _judge_boundary(last: Case[HashBoundaryLimits], learned: list[Case[HashBoundaryLimits]]) -> None:
    first, *others = learned
    shown = first.activations()
    limits = first.limits
    if shown is None or not first.enough_tokens(shown.tokens, limits.min_tokens):
        return
    if len(learned) < limits.min_learned_layers:
        first.note(f"boundary not compared: {len(learned)} of {limits.min_learned_layers} learned layers")
        return
    _judge_flips(first, others, shown)
    _judge_jumps(last, learned)
    first.keep_worst()


def _judge_flips(first: Case[HashBoundaryLimits], others: list[Case[HashBoundaryLimits]], shown: Activations) -> None:
    limits = first.limits
    flips = [
        seen.selection.flips_noise
        for case in others
        if (seen := case.evidence.activations) and seen.selection and case.evidence.router.verified
    ]
    if shown.selection is None or len(flips) + 1 < limits.min_learned_layers:
        first.note("flips under noise were not measured")
        return
    share, worst = shown.selection.flips_noise, max(flips)
    if share > limits.flips_warning and share > limits.worst_ratio * worst:
        first.find(
            "warning",
            f"the first learned layer changes its experts for {percent(share)} of the tokens under a noise of 2**-8 "
            f"(the limit is {percent(limits.flips_warning)} and {number(limits.worst_ratio)} times the worst other "
            f"learned layer, {percent(worst)})",
            quantity="share of tokens that flip under noise",
            measured=share,
            limit="flips_warning",
            cause=UNSETTLED,
            remedy=_COMPARE,
        )


def _judge_jumps(last: Case[HashBoundaryLimits], learned: list[Case[HashBoundaryLimits]]) -> None:
    """Judge sizes from the last hash layer through the learned ones; the layer that is off gets the finding."""
    limits = last.limits
    for what in ("router input", "MoE output", "MoE output over residual stream"):
        sizes = [size for case in (last, *learned) if (size := _size(case, what)) is not None]
        if len(sizes) <= len(learned):
            continue
        steps = [abs(math.log(after / before)) for before, after in pairwise(sizes)]
        worst = max(steps[2:])
        into, onward = steps[0], steps[1]

        def beyond(step: float, worst: float = worst) -> bool:
            return step > math.log(limits.jump_warning) and math.exp(step - worst) > limits.worst_ratio

        # A step into the first learned layer and one out of it mean that this layer is off; into it only, that
        # the hash layer before is.
        if not (beyond(into) or beyond(onward)):
            continue
        case, step = (learned[0], onward) if beyond(onward) else (last, into)
        if any(found.cause == JUMP for found in case.findings):
            continue
        case.find(
            "warning",
            f"the size of the {what} changes by a factor of {number(math.exp(step))} to the next layer (the limit is "
            f"{number(limits.jump_warning)} and {number(limits.worst_ratio)} times the worst step between the other "
            f"learned layers, {number(math.exp(worst))})",
            quantity=f"step in the size of the {what}",
            measured=math.exp(step),
            limit="jump_warning",
            cause=JUMP,
            remedy=_COMPARE,
        )


def _size(case: Case[HashBoundaryLimits], what: str) -> float | None:
    shown = case.evidence.activations
    if shown is None or shown.magnitudes is None or not case.evidence.router.verified:
        return None
    sizes = shown.magnitudes
    ratio = sizes.routed_to_residual.p50 if sizes.routed_to_residual else None
    size = {"router input": sizes.input_rms, "MoE output": sizes.routed_rms}.get(what, ratio)
    return size if size is not None and size > 0 and math.isfinite(size) else None
