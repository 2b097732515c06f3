"""MP401 scale-mismatch: the routed branch, or a tensor of it, has the wrong size.

## What it finds

Gate rows, experts, shared experts and norm gains that are zero or of a scale far off their siblings', by name; and
a routed branch that was scaled wrongly: a `routed_scaling_factor` that was lost or applied twice, a norm
over the chosen experts that was dropped from code or config, one layer of a size unlike the others, or a
branch that is all but absent.

## Why it matters

Every token is affected, yet short benchmarks hardly show it: a factor applied twice took one model from
92 to 25 %, a shared branch at 0.4 of its size cost 1 % on short answers and ruined long ones.

## How it is measured

From the weights, also where nothing runs: the norms of the gate's rows; the root mean square of every matrix of every
expert (a sample of 262,144 entries an expert) against the median expert of its layer; that of the median
expert, of the shared expert and of the gain of the norm before the router against their trends over depth. The
experts and shared experts are not read with `--weights-only`.

The rule fitted to logits and weights is compared with the config and, where that names no norm or factor, with
transformers' own class. Weights that are renormalised although the config forbids it are an error, unless that
class always does so. A config that forbids it although the released configs of its family ask for it is a warning:
code and config agree then, and the size that the loss wants is often within the healthy limits. What the released
configs say is asked of transformers (the default of the config class, or what its loader of GGUF files fills in).
The median over tokens of r =
||routed|| / ||shared|| (the shared output behind its gate), without a shared expert ||routed|| /
||residual stream||, is compared with very wide bars and, as log r, with a robust line through the other
layers. The test that needs no reference is the loss: a trained model is near a stationary point of its
own loss in a multiplier m on the routed branch. The loss is read on a geometric grid of m, paired by
document; a best m far from 1 that gains clearly, in several kinds of text, means that the size is wrong,
and m says by how much, to some 20 % (so the factor is said as 2, 3, 5, 10, 20 and so on). A best m at the
edge of the grid decides nothing. The layers of the oddest sizes (in a small model all of them) are tested
alone in the same way: the test can confirm a layer (error) or clear it. A wrong layer drags the whole
model's best m along, and a wrong factor in the whole model that of every layer: the place where m gains most
is the one reported. Where several layers are wrong, mend that one and test again.

A ratio of 1 is not a target: trained models lie anywhere from 0.3 to 5, hash layers above their
neighbours.

## Limits

- `weight_sum_float32` (0.001), `weight_sum_16bit` (0.015625): deviation of the weight sum from its
  promise.
- `ratio_low` (0.02), `ratio_high` (50): median ratio that is a warning.
- `outlier_sigmas` (6), `outlier_factor` (5): how far log r must stand off the other layers, both needed.
- `sigma_floor` (0.25): least scatter of log r that the other layers are taken to have.
- `min_layers` (5): layers with a ratio before any of them can be an outlier.
- `row_factor` (10), `expert_factor` (4): how far a gate row, or an expert's matrix, must be off the median one. In
  trained models they stayed within factors of 1.3 and 1.2.
- `depth_factor` (5): the same for a shared expert, the median expert and a norm gain off their trend over depth; twice
  over (25) for the first and last layer, which differ by nature. `min_depth` (5): layers that such a trend needs.
- `size_sigmas` (6), `size_floor` (0.1): robust sigmas of the log size, needed as well, and the least that one is.
- `size_error` (20): factor from which a tensor off its siblings is an error.
- `multiplier_low` (0.63), `multiplier_high` (1.6): best multipliers that count as healthy.
- `norm_multiplier` (1.19): where the family's released configs renormalise and this one does not, the best
  multipliers (up to this factor off 1) that clear it. Sound models had theirs up to 1.13, the same without their norm
  at 1.26 to 1.6.
- `gain_errors` (3), `gain_share` (0.01), `layer_gain_share` (0.002): the gain in standard errors, and as a
  share of the loss for the whole model and for one layer.
- `min_sources` (3), `min_documents` (8): what must agree, and be read, before a curve is believed.

## Known false alarms

Text foreign to the model drives the best multiplier of a healthy model away from 1, mostly to the edge.
The first and last layer differ from the others in ||routed|| / ||residual|| by nature and are not
compared by it. Some classes always normalise (DeepSeek-V4's, in transformers), whatever the flag says; that is
only mentioned.

## What to do

Set `routed_scaling_factor` and `norm_topk_prob` to the family's values, or to the present value times the
best multiplier, and look whether the serving engine applies them once. For a single layer compare the
experts' tensors (a scale lost in quantisation is typical) with the base checkpoint. A branch whose choice is wrong is
best made small as well: where the finding follows another one (permuted-experts, say), restore that first and leave the
size alone.

## References

sglang pull requests 8511 and 28237; vllm pull request 45037; torchtitan issue 1448.
"""

import math

from pydantic import Field

from moeprobe.detectors.branch_size import branch_ratio, trend_offsets
from moeprobe.detectors.case import Case
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.lost_norm import judge_lost_norm, lost_norm
from moeprobe.detectors.scale_curve import CurveLimits, correction, culprit, points_to, read_curve
from moeprobe.detectors.siblings import SizeLimits
from moeprobe.detectors.tensor_sizes import TENSORS, judge_tensors
from moeprobe.detectors.weight_rule import CONFIG, FACTOR, NORMALISED, UNEXPLAINED, UNNORMALISED, judge_rule
from moeprobe.detectors.wording import number, percent
from moeprobe.findings.evidence import Evidence, ScaleCurve
from moeprobe.findings.finding import Finding

__all__ = ["FACTOR", "NORMALISED", "UNEXPLAINED", "UNNORMALISED", "ScaleMismatch", "ScaleMismatchLimits"]

TOO_LARGE = "the routed branch is too large"
TOO_SMALL = "the routed branch is too small"
OUTLIER = "the routed branch is of another size than in the other layers"

_LAYER = "Compare this layer's experts and scales with the base checkpoint"


class ScaleMismatchLimits(CurveLimits, SizeLimits):
    """Bars of scale-mismatch."""

    weight_sum_float32: float = Field(1e-3, gt=0, description="Deviation of a float32 weight sum from its promise")
    weight_sum_16bit: float = Field(2**-6, gt=0, description="The same for 16-bit weights: a few rounding steps")
    ratio_low: float = Field(0.02, ge=0, description="Least median ratio; trained models lie from 0.3 to 5")
    ratio_high: float = Field(50, gt=0, description="Largest median ratio; trained models lie from 0.3 to 5")
    outlier_sigmas: float = Field(6, gt=0, description="Robust sigmas of log r off the other layers' trend")
    outlier_factor: float = Field(5, gt=1, description="Factor off the other layers' trend, needed as well")
    sigma_floor: float = Field(0.25, gt=0, description="Least scatter of log r; healthy layers vary by a factor of 2")
    min_layers: int = Field(5, ge=3, description="Layers with a ratio before one can be an outlier")


class ScaleMismatch(Detector[ScaleMismatchLimits]):
    """The routed branch has the wrong size."""

    name = "scale-mismatch"
    code = "MP401"
    Limits = ScaleMismatchLimits

    def judge(self, evidence: Evidence, limits: ScaleMismatchLimits) -> Judgement:
        """One check per router, and one of the whole model by its loss."""
        curves = {curve.router: curve for curve in (evidence.experiments.scale if evidence.experiments else [])}
        cases = self.open(evidence, limits)
        offsets = trend_offsets(evidence.routers, limits)
        wrong = culprit(list(curves.values()), limits)
        whole = wrong if wrong is not None and wrong.router is None else None
        for case, offset in zip(cases, offsets, strict=True):
            shown = case.activations()
            if shown is None:
                continue
            if shown.weights:
                judge_rule(case, shown.weights)
            curve = curves.get(case.evidence.router.path)
            if not (curve and _judge_curve(case, curve, curve is wrong)):
                cleared = curve is not None and read_curve(curve, limits).fine
                _judge_ratio(case, whole)
                _judge_offset(case, offset, cleared)
            case.keep_worst()
        judge_tensors(cases)
        for case in cases:
            _confirm(case)
        model = self.open_model(evidence, limits)
        if None not in curves:
            loss = evidence.experiments.loss if evidence.experiments else None
            model.skip("needs the loss test" if loss is None or math.isfinite(loss) else "the loss is not finite")
        elif not _judge_curve(model, curves[None], True) and (undecided := read_curve(curves[None], limits).undecided):
            model.skip(undecided)
        # A size that the loss shows to be wrong is one finding, with its likely reason.
        if model.findings:
            model.findings = [_with_reason(found, lost_norm(evidence.routers)) for found in model.findings]
        else:
            judge_lost_norm(model, evidence.routers, curves.get(None))
        return Judgement.of([*cases, model])


def _confirm(case: Case[ScaleMismatchLimits]) -> None:
    """A tensor of an odd size is wrong for certain where the loss wants its layer at another size."""
    if any(found.cause in (TOO_LARGE, TOO_SMALL) and found.severity == "error" for found in case.findings):
        case.findings = [
            found.model_copy(update={"severity": "error"})
            if found.cause in TENSORS and found.severity == "warning"
            else found
            for found in case.findings
        ]


def _with_reason(found: Finding, lacking: str) -> Finding:
    return found.model_copy(update={"message": f"{found.message} Note that {lacking}."}) if lacking else found


def _judge_curve(case: Case[ScaleMismatchLimits], curve: ScaleCurve, at_fault: bool) -> bool:
    """Whether the loss test finds the wrong size, here and not elsewhere."""
    reading = read_curve(curve, case.limits)
    if case.subject is not None and reading.undecided:
        case.note(f"loss test {reading.undecided}")
    if reading.wrong and not at_fault:
        case.note(f"the loss is least at {number(curve.best)} times its size, but a change elsewhere gains more")
    if not reading.wrong or not at_fault:
        return False
    too_large = curve.best < 1
    at_one = next(point.loss for point in curve.points if math.isclose(point.multiplier, 1.0))
    case.find(
        "error",
        f"the loss is least with the routed branch multiplied by {number(curve.best)} (healthy is "
        f"{number(case.limits.multiplier_low)} to {number(case.limits.multiplier_high)}; gain "
        f"{percent(curve.gain / at_one)} of the loss, in {curve.sources_gaining} of {curve.sources} sources), so the "
        f"branch is {points_to(curve)}",
        quantity="best multiplier",
        measured=curve.best,
        limit="multiplier_low" if too_large else "multiplier_high",
        cause=TOO_LARGE if too_large else TOO_SMALL,
        remedy=f"{CONFIG if case.subject is None else _LAYER}; multiply the routed branch by {correction(curve)}",
    )
    return True


def _judge_ratio(case: Case[ScaleMismatchLimits], whole: ScaleCurve | None) -> None:
    """Compare the ratio with very wide bars; ``whole``, if given, says that the whole model has the wrong size."""
    ratio, shared = branch_ratio(case.evidence)
    beside = "shared expert" if shared else "residual stream"
    if not shared:
        gone = (
            "the shared expert's output was not measured" if case.evidence.router.shared_experts else "no shared expert"
        )
        case.note(f"{gone}: compared with the residual stream only")
    if ratio is None:
        case.skip("the size of the routed branch was not measured")
        return
    limits = case.limits
    for wrong, bar, cause in (
        (ratio < limits.ratio_low, "ratio_low", TOO_SMALL),
        (ratio > limits.ratio_high, "ratio_high", TOO_LARGE),
    ):
        if wrong:
            known = whole is not None and (whole.best < 1) == (cause == TOO_LARGE)
            case.find(
                "info" if known else "warning",
                f"the routed branch is {number(ratio)} times the {beside} in the median token (the limit is "
                f"{number(getattr(limits, bar))})",
                quantity=f"routed over {beside}",
                measured=ratio,
                limit=bar,
                cause=cause,
                remedy=CONFIG,
            )


def _judge_offset(case: Case[ScaleMismatchLimits], offset: tuple[float, float] | None, cleared: bool) -> None:
    if offset is None:
        case.note("not compared with other layers (too few, or an end of the residual stream)")
        return
    sigmas, log_factor = offset
    limits = case.limits
    if abs(sigmas) <= limits.outlier_sigmas or math.exp(abs(log_factor)) <= limits.outlier_factor:
        return
    more = "larger" if log_factor > 0 else "smaller"
    case.find(
        "info" if cleared else "warning",
        f"the routed branch is {number(math.exp(abs(log_factor)))} times {more} than the trend of the other layers "
        f"(the limit is {number(limits.outlier_factor)} times and {number(limits.outlier_sigmas)} robust sigmas)"
        + (", but the loss is least at its present size" if cleared else ""),
        quantity="factor off the other layers",
        measured=math.exp(abs(log_factor)),
        limit="outlier_factor",
        cause=OUTLIER,
        remedy=_LAYER,
    )
