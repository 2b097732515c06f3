"""MP301 sqrt-nan: the numerics of the score function and of the routing weights.

## What it finds

A tensor of the router or of its experts, logits, weights or routed outputs that are not finite; weights that
faded because the chosen scores underflow; and logits so low that sqrt(softplus(x)) is exactly zero, where one
training step turns the gate into NaN.

## Why it matters

The square root has an infinite derivative at zero. An expert that was *not* chosen has a zero gradient
from above, and zero times infinity is NaN: a single (token, expert) pair below the edge destroys the gate
row while the forward pass stays finite. Weights that fade silently remove the routed branch from the
output.

## How it is measured

From the weights: the rows of the gate, the logit biases, the norm gain before the router and (in a sample) the
experts' matrices that hold NaN or infinity. On the probe: counts of non-finite values; the sum of the weights
over what the declared rule gives for the recorded logits; the smallest logit of any expert, chosen or not,
against the edge of the dtype in which the score function runs: -102.87 in float32, -93 in bfloat16, -17.34 in
float16. Where a score is exactly zero, a backward pass through the router alone, on the recorded inputs and in
the run dtype, confirms or refutes it, and names the gate rows that become NaN. Sigmoid and softmax have no such
edge, since their derivative is zero where they are; sigmoid weights fade from about -40, which the sum of the
weights shows. From the weights: no input behind an RMS norm can push a logit below -sqrt(D) * ||W_e * gamma||;
if that stays inside the edge the check says so. Hash layers are judged like the others: their table chooses
without looking at scores. The check mentions chosen experts below -16.64 (kernels with a naive log(1 + exp(x))
give them zero) and below -13.82 (where a clamp at 1e-6 would act) as info.

## Limits

- `deviation_float32` (0.001): relative deviation of a float32 weight sum from its promise.
- `deviation_16bit` (0.015625): the same for 16-bit weights, 2 to the power -6.
- `edge_share` (0.8): share of the way to the edge from which the smallest logit is a warning.

## Known false alarms

An implementation that guards the square root by its own means is safe below the edge; a backward pass
that stayed finite turns that error into a warning. Weight sums are compared with the declared rule only
where that rule was recognised.

## What to do

Run the score function in float32. For training use exp(x / 2) * (1 - exp(x) / 4) below -15, which is
exact to 2e-7 and has a finite gradient; a clamp before the root makes all low scores tie. Lift logits
that have drifted down together: only their differences choose. Non-finite values: mend the earliest layer
first.

## References

sglang pull requests 34459 and 38320; flashinfer pull request 3803; vllm-ascend pull request 9676.
"""

import math

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.nonfinite_tensors import judge_nonfinite_tensors
from moeprobe.detectors.promise import breach, weight_tolerance
from moeprobe.detectors.scores import score_function, zero_edge
from moeprobe.detectors.wording import number, percent
from moeprobe.findings.evidence import Activations, Backward, Evidence, Logits, Weights

NONFINITE_LOGITS = "the logits are not finite"
NONFINITE_WEIGHTS = "the routing weights are not finite"
ZERO_BY_ZERO = "the chosen scores underflow to zero: the weights are 0/0"
NONFINITE_OUTPUT = "the output of the experts is not finite"
FADED = "the chosen scores underflow: the weights fade"
NAN_GRADIENT = "an unselected expert's logit is below the edge: its zero gradient times infinity is NaN"
BROKEN_BACKWARD = "the router's backward pass is not finite"
NEAR_EDGE = "the smallest logit is near the edge"
GUARDED = "the smallest logit is below the edge, but no gradient was broken"
NAIVE_KERNEL = "chosen experts lie where naive kernels give zero"
CLAMPED = "chosen experts lie where a clamp of 1e-6 would act"

NONFINITE_CAUSES = (NONFINITE_LOGITS, NONFINITE_WEIGHTS, ZERO_BY_ZERO, NONFINITE_OUTPUT)

_MEND = "Mend the earliest layer with non-finite values first; compare its tensors with the base checkpoint"
_STABLE = "Run the score function in float32, and use a stable sqrt(softplus) before any further training"


class SqrtNanLimits(Limits):
    """Bars of sqrt-nan."""

    deviation_float32: float = Field(1e-3, gt=0, description="Deviation of a float32 weight sum from its promise")
    deviation_16bit: float = Field(2**-6, gt=0, description="The same for 16-bit weights: a few rounding steps")
    edge_share: float = Field(0.8, gt=0, le=1, description="Smallest logit over the edge from which it is a warning")


class SqrtNan(Detector[SqrtNanLimits]):
    """The numerics of the score function and of the routing weights."""

    name = "sqrt-nan"
    code = "MP301"
    Limits = SqrtNanLimits

    def judge(self, evidence: Evidence, limits: SqrtNanLimits) -> Judgement:
        """One check per router."""
        gradients = evidence.experiments.gradient if evidence.experiments else {}
        cases = self.open(evidence, limits)
        for case in cases:
            broken = judge_nonfinite_tensors(case)
            _certify(case, evidence.dtype)
            shown = case.activations()
            if shown is None:
                continue
            if not broken and not _found_nonfinite(case, shown):
                if shown.weights:
                    _judge_fading(case, shown.weights)
                _judge_edge(case, shown, gradients.get(case.evidence.router.path), evidence.dtype)
            if shown.logits:
                _mention_kernels(case, shown.logits)
            _mention_backward(case, gradients.get(case.evidence.router.path))
            if not case.findings:
                case.note(f"none in {number(shown.tokens)} tokens, so below 1 in {_bound(shown.tokens)} (95 %)")
        return Judgement.of(cases)


def _bound(tokens: int) -> str:
    """Say how seldom an unseen fault can be: zero events in n trials bound the rate below 3 / n."""
    return number(max(tokens // 3, 1))


def _edge(case: Case[SqrtNanLimits], model_dtype: str) -> tuple[float | None, str]:
    """Return the edge of the score function, and the dtype that it runs in."""
    arithmetic = case.evidence.router.arithmetic
    dtype = (arithmetic.score if arithmetic else None) or model_dtype
    return zero_edge(score_function(case.evidence), dtype), dtype


def _certify(case: Case[SqrtNanLimits], model_dtype: str) -> None:
    edge, dtype = _edge(case, model_dtype)
    bounds = case.evidence.weights.logit_bound if case.evidence.weights else None
    if edge is not None and bounds and max(bounds) < -edge:
        case.note(
            f"proved safe for any input: no logit can fall below {-max(bounds):.4g}, the edge in {dtype} is {edge:g}"
        )


def _found_nonfinite(case: Case[SqrtNanLimits], shown: Activations) -> bool:
    """Report the earliest stage that is not finite; the later ones only carry it on."""
    logits = shown.logits.nonfinite if shown.logits else 0
    weights = shown.weights.nonfinite if shown.weights else 0
    outputs = shown.magnitudes.routed_nonfinite if shown.magnitudes else 0
    least = shown.weights.smallest_chosen_score if shown.weights else None
    if logits:
        what, count, cause = "logits", logits, NONFINITE_LOGITS
    elif weights:
        what, count, cause = "routing weights", weights, ZERO_BY_ZERO if least == 0 else NONFINITE_WEIGHTS
    elif outputs:
        what, count, cause = "routed outputs", outputs, NONFINITE_OUTPUT
    else:
        return False
    case.find(
        "error",
        f"{number(count)} of {number(shown.tokens)} tokens have {what} that are NaN or infinite",
        quantity=f"tokens with non-finite {what}",
        measured=count,
        cause=cause,
        remedy=_STABLE if cause == ZERO_BY_ZERO else _MEND,
    )
    return True


def _judge_fading(case: Case[SqrtNanLimits], weights: Weights) -> None:
    limits = case.limits
    tolerance = weight_tolerance(case.evidence, limits.deviation_float32, limits.deviation_16bit)
    if weights.promise_smallest is None:
        case.note("no declared rule for the sum of the weights was recognised")
    elif breach(case.evidence, weights, tolerance) == "faded":
        bar = "deviation_float32" if tolerance == limits.deviation_float32 else "deviation_16bit"
        case.find(
            "error",
            f"the routing weights of {number(weights.broken_promises or 1)} tokens sum to as little as "
            f"{percent(weights.promise_smallest)} of what the config promises (a deviation of "
            f"{percent(tolerance)} is allowed)",
            quantity="deviation of the weight sum",
            measured=1 - weights.promise_smallest,
            limit=bar,
            cause=FADED,
            remedy=_STABLE,
        )


def _judge_edge(case: Case[SqrtNanLimits], shown: Activations, gradient: Backward | None, model_dtype: str) -> None:
    edge, dtype = _edge(case, model_dtype)
    smallest = shown.logits.smallest if shown.logits else None
    crossed = edge is not None and smallest is not None and smallest.value <= edge
    if gradient and gradient.nonfinite:
        case.find(
            "error",
            f"{number(gradient.nonfinite)} gradient entries of a backward pass through the router are NaN or "
            f"infinite (on {number(gradient.tokens)} tokens with a score of zero), while its forward pass is finite",
            quantity="non-finite gradient entries",
            measured=gradient.nonfinite,
            experts=gradient.experts,
            cause=NAN_GRADIENT if crossed else BROKEN_BACKWARD,
            remedy=_STABLE,
        )
        return
    if edge is None or smallest is None or smallest.value > edge * case.limits.edge_share:
        return
    safe = gradient is not None
    if crossed:
        stayed = "a backward pass stayed finite" if gradient and gradient.tokens else "no score was zero on the probe"
        cause, so = (GUARDED, stayed) if safe else (NAN_GRADIENT, "its gradient is NaN")
        message = f"below the edge {edge:g}, where sqrt(softplus) is zero in {dtype}: {so}"
    else:
        cause = NEAR_EDGE
        message = (
            f"beyond {percent(case.limits.edge_share)} of the way to {edge:g}, where sqrt(softplus) is "
            f"zero in {dtype} and its gradient NaN"
        )
    case.find(
        "error" if crossed and not safe else "warning",
        f"the smallest logit is {smallest.value:.4g} (expert {smallest.expert}), {message}",
        quantity="smallest logit over the edge",
        measured=smallest.value / edge,
        # The edge itself is a property of the dtype; only the way to it is a setting.
        limit=None if crossed else "edge_share",
        cause=cause,
        remedy=_STABLE,
    )


def _mention_backward(case: Case[SqrtNanLimits], gradient: Backward | None) -> None:
    if gradient is None:
        case.note("no backward pass was tried")
    elif not gradient.tokens:
        case.note("no score was zero, so no backward pass was needed")
    elif not gradient.nonfinite:
        case.note(f"a backward pass stayed finite on {number(gradient.tokens)} tokens with a score of zero")


def _mention_kernels(case: Case[SqrtNanLimits], logits: Logits) -> None:
    if case.evidence.router.score_function != "sqrtsoftplus":
        return
    for share, edge, cause, effect in (
        (
            logits.selected_below_naive,
            -16.64,
            NAIVE_KERNEL,
            "a kernel with a naive log(1 + exp(x)) gives them zero",
        ),
        (logits.selected_below_clamp, -13.82, CLAMPED, "a clamp of softplus at 1e-6 would change them"),
    ):
        if share > 0 and math.isfinite(share):
            case.find(
                "info",
                f"{percent(share)} of the chosen experts have a logit below {edge}; {effect}",
                quantity=f"share of chosen experts below {edge}",
                measured=share,
                cause=cause,
                remedy="Check the kernels of the serving engine",
            )
            return
