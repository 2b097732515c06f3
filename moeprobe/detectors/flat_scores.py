"""MP101 flat-scores: the router does not prefer anybody.

## What it finds

A learned router whose choice says nothing about the token: a gate that is zero, or whose rows are equal or
differ in a few directions only, logits that hardly differ between experts, selection scores that tie, logits
drowned in rounding, or one set of experts for nearly every token.

## Why it matters

Such a router loads and runs. The chosen experts are then decided by rounding, by the order in which a
kernel breaks ties, or by the bias, and the loss rises without any error message.

## How it is measured

From the weights: zero and identical gate rows, and in how many directions the rows differ (the singular values
of the matrix, each row relative to the mean row and to its norm, that hold all but 1e-4 of the energy). From
the probe, with the logits recomputed in float32 from the recorded router input so that the run dtype cannot be
the cause: the median over tokens of the standard deviation of the logits over the experts; the share of tokens
whose selection scores tie exactly across the boundary of the chosen ones; that spread against the rounding
error of the logits as they ran; the share of tokens with the most frequent set of experts, beside the share of
the logits' variance that depends on the token. Logits and not scores, because softmax over 384 healthy experts
has a spread below 0.001.

## Limits

- `std_error` (0.01), `std_warning` (0.05): spread of the logits below which nobody is preferred. Random
  initialisation has 0.9 to 1.7.
- `ties_error` (0.1), `ties_warning` (0.01): share of tokens with a tie in float32; healthy is 0.
- `signal_error` (8), `signal_warning` (32): spread over rounding error; a bfloat16 router has about 600.
- `modal_error` (0.9): share of tokens with one and the same set of experts.
- `modal_warning` (0.5), `token_share_warning` (0.1): the same as a warning, only if the token-dependent
  share of the variance is small as well; a healthy layer of 8 experts was seen at 55 %.
- `collapsed_input` (0.05): spread of the router input over tokens below which it is named as the cause.
- `direction_share` (0.25): share of the possible directions below which the rows of a gate differ in too few; trained
  and freshly initialised gates use all of them.
- `min_tokens` (1000), `min_distinct_ids` (256): what the probe must offer before activations are judged.

## Known false alarms

A probe of near-identical texts makes healthy routers look independent of the token. Small margins between
the chosen and the next expert are normal in models with many small experts and are never a finding, and
neither are ties that only bfloat16 makes.

## What to do

Compare the gate's tensor with the base checkpoint: a conversion or merge that lost, rescaled or
duplicated it is the usual reason. Where rounding is the cause, run the gate in float32; where the router
input has collapsed, look at the norm before the router and at the layers below it.

## References

ST-MoE (arXiv 2202.08906) for the scale of router logits; DeepSeek-V3 (arXiv 2412.19437) for routing with
a selection bias.
"""

from pydantic import Field

from moeprobe.detectors import flatness
from moeprobe.detectors.case import SINGLE, Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.wording import listed, number, percent
from moeprobe.findings.evidence import Activations, Evidence
from moeprobe.findings.finding import Severity


class FlatScoresLimits(Limits):
    """Bars of flat-scores."""

    std_error: float = Field(0.01, gt=0, description="Median spread of the logits; random initialisation has 0.9-1.7")
    std_warning: float = Field(0.05, gt=0, description="The same, as a warning")
    ties_error: float = Field(0.1, gt=0, le=1, description="Share of tokens with a tie in float32; healthy is 0")
    ties_warning: float = Field(0.01, gt=0, le=1, description="The same, as a warning")
    signal_error: float = Field(8, gt=0, description="Spread over rounding; at 9.6 some 74 % of sets change (measured)")
    signal_warning: float = Field(32, gt=0, description="The same, as a warning; a healthy bfloat16 router has 600")
    modal_error: float = Field(0.9, gt=0, le=1, description="Share of tokens with the most frequent set of experts")
    modal_warning: float = Field(0.5, gt=0, le=1, description="The same, as a warning beside token_share_warning")
    token_share_warning: float = Field(0.1, gt=0, le=1, description="Token-dependent share of the logits' variance")
    collapsed_input: float = Field(0.05, gt=0, description="Spread of the router input over tokens, to name the cause")
    direction_share: float = Field(0.25, gt=0, le=1, description="Directions that hold what gate rows differ by")
    min_tokens: int = Field(1000, ge=1, description="Tokens before activations are judged")
    min_distinct_ids: int = Field(256, ge=1, description="Distinct token ids before activations are judged")


class FlatScores(Detector[FlatScoresLimits]):
    """The router does not prefer anybody."""

    name = "flat-scores"
    code = "MP101"
    Limits = FlatScoresLimits

    def judge(self, evidence: Evidence, limits: FlatScoresLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        for case in cases:
            if case.evidence.router.kind == "hash":
                case.skip("a hash table chooses here, not the scores")
                continue
            if case.evidence.router.score_columns == 1:
                _judge_finite(case)
                case.skip(SINGLE)
                continue
            _judge_weights(case)
            if shown := _judgeable(case):
                _judge_spread(case, shown)
                _judge_ties(case, shown)
                _judge_rounding(case, shown)
                _judge_tokens(case, shown)
            case.keep_worst()
        return Judgement.of(cases)


def _judge_finite(case: Case[FlatScoresLimits]) -> None:
    weights = case.evidence.weights
    if weights is None:
        case.note("the gate's weights were not read")
        return
    case.weigh()
    if weights.nonfinite_rows:
        case.note("gate rows that are not finite are left out (see sqrt-nan)")


def _judge_weights(case: Case[FlatScoresLimits]) -> None:
    _judge_finite(case)
    weights, experts = case.evidence.weights, case.evidence.router.experts
    if weights is None:
        return
    # Columns beyond the routed experts are zero or skip experts, which a family may fix at zero.
    zero = [row for row in weights.zero_rows if row < experts]
    if zero:
        everybody = len(zero) == experts
        what = (
            "the gate weights are all zero" if everybody else f"the gate weights of {listed(zero, 'expert')} are zero"
        )
        _find(
            case,
            "error" if len(zero) > 1 or everybody else "warning",
            what,
            quantity="zero gate rows",
            measured=len(zero),
            cause=flatness.TINY_WEIGHTS,
            experts=[] if everybody else zero,
        )
    least = case.limits.direction_share * (min(experts, case.evidence.router.hidden_size) - 1)
    if weights.directions is not None and weights.directions < least:
        _find(
            case,
            "error",
            f"the rows of the gate differ in only {number(weights.directions)} of {number(experts - 1)} directions "
            f"(the limit is {number(case.limits.direction_share)} of them), so it can put the experts in few orders",
            quantity="directions in which the gate rows differ",
            measured=weights.directions,
            limit="direction_share",
            cause=flatness.LOW_RANK,
        )
    equal = sorted({row for pair in weights.identical_rows for row in pair if row < experts} - set(zero))
    if len(equal) > 1:
        everybody = len(equal) == experts
        who = "all experts" if everybody else listed(equal, "expert")
        _find(
            case,
            "error",
            f"the gate rows of {who} are identical to another's, so nothing tells these experts apart",
            quantity="identical gate rows",
            measured=len(equal),
            cause=flatness.EQUAL_ROWS,
            experts=[] if everybody else equal,
        )


def _judgeable(case: Case[FlatScoresLimits]) -> Activations | None:
    shown = case.activations()
    if shown is None:
        return None
    if shown.logits is None:
        case.skip("the family hands on no logits")
        return None
    if shown.logits.nonfinite:
        case.skip("logits are not finite (see sqrt-nan)")
        return None
    enough = case.enough_tokens(shown.tokens, case.limits.min_tokens)
    return shown if case.enough_ids(shown.distinct_ids, case.limits.min_distinct_ids) and enough else None


def _judge_spread(case: Case[FlatScoresLimits], shown: Activations) -> None:
    spread = shown.logits.std.p50 if shown.logits else None
    if spread is None:
        case.skip("the spread of the logits was not measured")
    elif severity := _below(spread, case.limits.std_error, case.limits.std_warning):
        bar = f"std_{severity}"
        _find(
            case,
            severity,
            f"the logits differ by only {number(spread)} between experts (median standard deviation within a "
            f"token; the limit is {number(getattr(case.limits, bar))})",
            quantity="median logit spread",
            measured=spread,
            limit=bar,
            cause=flatness.of_spread(case.evidence, shown, spread),
        )


def _judge_ties(case: Case[FlatScoresLimits], shown: Activations) -> None:
    limits = case.limits
    if shown.selection is None:
        case.note("the selection was not recomputed")
    elif severity := _above(shown.selection.ties, limits.ties_error, limits.ties_warning):
        bar = f"ties_{severity}"
        _find(
            case,
            severity,
            f"in {percent(shown.selection.ties)} of the tokens the last chosen and the next expert have "
            f"exactly the same selection score (the limit is {percent(getattr(case.limits, bar))})",
            quantity="share of tokens with a tie",
            measured=shown.selection.ties,
            limit=bar,
            cause=flatness.of_ties(case.evidence, shown, limits.std_warning),
        )


def _judge_rounding(case: Case[FlatScoresLimits], shown: Activations) -> None:
    signal = shown.logits.signal_to_rounding if shown.logits else None
    if signal is None:
        return  # The logits ran in float32, or were not recomputed: there is no rounding to compare with.
    if severity := _below(signal, case.limits.signal_error, case.limits.signal_warning):
        bar = f"signal_{severity}"
        _find(
            case,
            severity,
            f"the logits differ between experts by only {number(signal)} times their rounding error "
            f"(the limit is {number(getattr(case.limits, bar))})",
            quantity="logit spread over rounding error",
            measured=signal,
            limit=bar,
            cause=flatness.LOST_TO_ROUNDING,
        )


def _judge_tokens(case: Case[FlatScoresLimits], shown: Activations) -> None:
    router, limits = case.evidence.router, case.limits
    # Who chooses every column always has the same set.
    if router.top_k >= router.score_columns:
        case.note("every token uses every expert: only how their weights differ was judged")
        return
    if shown.selection is None or shown.logits is None:
        return
    modal, share = shown.selection.modal, shown.logits.token_share
    hardly = share is not None and share < limits.token_share_warning
    severity: Severity | None = None
    if modal >= limits.modal_error:
        severity = "error"
    elif modal >= limits.modal_warning and hardly:
        severity = "warning"
    if severity:
        bar = f"modal_{severity}"
        _find(
            case,
            severity,
            f"{percent(modal)} of the tokens go to one and the same set of experts (the limit is "
            f"{percent(getattr(limits, bar))})",
            quantity="share of the most frequent set",
            measured=modal,
            limit=bar,
            cause=flatness.of_constancy(case.evidence, shown, limits.std_warning, limits.collapsed_input),
        )


def _below(value: float, error: float, warning: float) -> Severity | None:
    return "error" if value < error else "warning" if value < warning else None


def _above(value: float, error: float, warning: float) -> Severity | None:
    return "error" if value >= error else "warning" if value >= warning else None


def _find(
    case: Case[FlatScoresLimits],
    severity: Severity,
    message: str,
    *,
    quantity: str,
    measured: float,
    cause: str,
    limit: str | None = None,
    experts: list[int] | None = None,
) -> None:
    case.find(
        severity,
        message,
        quantity=quantity,
        measured=measured,
        limit=limit,
        cause=cause,
        remedy=flatness.REMEDIES[cause],
        experts=experts or (),
    )
