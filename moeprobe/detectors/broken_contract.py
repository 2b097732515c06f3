"""MP702 broken-contract: what ran is not what the router's rule gives.

## What it finds

Experts that run although the router did not choose them; a router that a fused kernel goes around; a choice, or
weights, that the logits do not give under the rule of the family; weights made of the biased score; an expert
outside the best groups; a score function other than the one that the config names or that transformers' own class
follows; experts chosen by one score and weighted by another; and top-1 routing with weights
that are always the same.

## Why it matters

These are mistakes of code, not of weights: an off-by-one in a dispatch, the bias left in the combine weights,
masks that let left-out groups win, the wrong score function. The model runs, and loses quality.

## How it is measured

The experts and weights that the experts module received are compared with what the router returned; where every
expert is a module of its own, the rows that each executed are counted and compared with the choice. The
router's own recorded logits are put through its rule (score function, bias, groups), in its own arithmetic: a
choice counts as different only where a left-out expert beats a chosen one by more than four units in the last
place, and weights only where their shares of the token's sum differ by more; factors and norms are the business
of scale-mismatch. What the weights give without the bias, or with the bias in the weights, names the cause.

Where nothing ran, a top-1 router with normalised weights is told from the config.

A rule counts as known where the config names its score function, where transformers has a class for this router
(its code, as the installed file holds it, is run on random numbers, and its rule fitted in the same way), or where
other routers of the same class follow it. Hash layers choose by their table, so only their weights are compared.

## Limits

- `share_error` (0.001): share of tokens that differ beyond rounding.
- `constant_weight` (0.001): relative range of the weights of a top-1 router below which they are constant.
- `min_tokens` (100): tokens before anything is judged.

## Known false alarms

None is known. Families whose logits are changed between gate and score, or whose weights hold more than a score
function, a norm and a factor, have no known rule and are skipped. A family whose code names one score function
in its config and uses another is reported, rightly.

## What to do

Compare the code of the router and of the dispatch with the reference implementation of the family; the cause
says at which step.

## References

vllm issue 11971 (biased scores as weights); DeepSeek-V3 issue 741 and transformers pull request 45441 (masks);
flashinfer issue 5190 (wrong score function); minimind issue 858 (top-1 with a norm).
"""

from pydantic import Field

from moeprobe.detectors.case import Case, Limits
from moeprobe.detectors.detector import Detector, Judgement
from moeprobe.detectors.expected import Expected, expected, knows_choice
from moeprobe.detectors.kin import kin_of, usual_groups
from moeprobe.detectors.top_one import CONSTANT, judge_top_one
from moeprobe.detectors.wording import percent
from moeprobe.findings.contract import Contract
from moeprobe.findings.evidence import Activations, Evidence, RouterEvidence
from moeprobe.findings.finding import Severity

FOREIGN_EXPERTS = "the executed experts are not the router's choice"
BYPASSED = "the forward pass goes around the router"
FOREIGN_WEIGHTS = "the experts receive other weights than the router's"
OUTSIDE_GROUPS = "an expert outside the best groups is chosen"
ZERO_MASK = "left-out groups win because their scores are set to zero"
BIAS_UNUSED = "the selection ignores its bias"
MIXED_SCORES = "the experts are chosen by one score and weighted by another"
OTHER_CHOICE = "the chosen experts are not those of the rule"
BIASED_WEIGHTS = "the weights use the biased score"
OTHER_FUNCTION = "the weights follow another score function"
UNKNOWN_WEIGHTS = "the weights follow no known rule"

IN_CODE = (
    FOREIGN_EXPERTS,
    FOREIGN_WEIGHTS,
    ZERO_MASK,
    BIAS_UNUSED,
    MIXED_SCORES,
    OTHER_CHOICE,
    BIASED_WEIGHTS,
    OTHER_FUNCTION,
    CONSTANT,
)
"""Causes that sit in code or config, so that one mistake shows in all layers."""

_REMEDIES = {
    BYPASSED: "Run with the eager experts implementation, without fused kernels, so that the routing can be seen",
    FOREIGN_EXPERTS: "Check the code between router and experts: shifted, sorted or remapped indices",
    FOREIGN_WEIGHTS: "Check the code between router and experts: weights must travel with their indices",
    OUTSIDE_GROUPS: "Check the group mask: groups that are left out must get minus infinity before top-k",
    ZERO_MASK: "Fill the scores of left-out groups with minus infinity instead of zero",
    BIAS_UNUSED: "Add the selection bias to the scores before top-k",
    MIXED_SCORES: "Choose and weight the experts by the scores of one function, the one of the family's reference code",
    OTHER_CHOICE: "Check the steps from scores to top-k against the family's reference code",
    BIASED_WEIGHTS: "Gather the weights from the scores without the bias; the bias is for the selection alone",
    OTHER_FUNCTION: "Set the score function that the checkpoint was trained with",
    UNKNOWN_WEIGHTS: "Check the steps from logits to weights against the family's reference code",
}


class BrokenContractLimits(Limits):
    """Bars of broken-contract."""

    share_error: float = Field(0.001, gt=0, le=1, description="Tokens that differ beyond rounding; healthy is 0")
    constant_weight: float = Field(0.001, gt=0, description="Relative range of constant top-1 weights")
    min_tokens: int = Field(100, ge=1, description="Tokens before anything is judged")


class BrokenContract(Detector[BrokenContractLimits]):
    """What ran is not what the router's rule gives."""

    name = "broken-contract"
    code = "MP702"
    Limits = BrokenContractLimits

    def judge(self, evidence: Evidence, limits: BrokenContractLimits) -> Judgement:
        """One check per router."""
        cases = self.open(evidence, limits)
        for case in cases:
            _judge(case, kin_of(case.evidence, evidence.routers))
            case.keep_worst()
        return Judgement.of(cases)


def _judge(case: Case[BrokenContractLimits], kin: list[RouterEvidence]) -> None:
    if case.evidence.router.bypassed:
        what = "the block runs without calling this router, so what its experts execute is not known"
        _find(case, "warning", what, None, BYPASSED)
        return
    shown = case.evidence.activations
    contract = shown.contract if shown else None
    if contract and _enough(case, contract.executed) and _judge_execution(case, contract):
        return
    shown = case.activations()
    if shown is None or _enough(case, shown.tokens):
        judge_top_one(case, shown)
    if shown is None:
        return
    if contract is None:
        case.skip("what ran was not compared with the rule")
        return
    if shown.logits is None:
        case.skip("the family hands on no logits")
        return
    if case.evidence.weights is None:
        case.note("the recorded logits are not the product of the gate and its input")
    known = expected(case.evidence, kin)
    if _enough(case, contract.executed) and not _judge_function(case, known, kin):
        _judge_choice(case, contract, kin)
        _judge_weights(case, shown, contract, known)


def _enough(case: Case[BrokenContractLimits], tokens: int) -> bool:
    return case.enough_tokens(tokens, case.limits.min_tokens)


def _judge_execution(case: Case[BrokenContractLimits], contract: Contract) -> bool:
    """Whether something else ran than the router returned."""
    foreign, weights = (
        _share(contract.not_returned, contract.executed),
        _share(contract.other_weights, contract.executed),
    )
    misplaced = _share(contract.misplaced, contract.ran)
    if _over(case, misplaced):
        what = (
            f"at least {percent(misplaced)} of what the experts executed went to another expert than the router chose"
        )
        _find(case, "error", what, misplaced, FOREIGN_EXPERTS)
    elif _over(case, foreign):
        what = f"in {percent(foreign)} of the tokens an expert runs that the router did not choose"
        _find(case, "error", what, foreign, FOREIGN_EXPERTS)
    elif _over(case, weights):
        what = f"in {percent(weights)} of the tokens the experts receive other weights than the router returned"
        _find(case, "error", what, weights, FOREIGN_WEIGHTS)
    return bool(case.findings)


def _judge_function(case: Case[BrokenContractLimits], known: Expected, kin: list[RouterEvidence]) -> bool:
    """Whether the weights follow a score function other than the expected one; the choice then says nothing."""
    router = case.evidence.router
    # Of two routers that differ nobody knows which one is right.
    functions = known.functions if not known.voted or len(kin) > 1 else frozenset()
    if router.biased_weights or not router.explaining or not functions or functions & set(router.explaining):
        return False
    chosen = f" and the experts are chosen by {' or '.join(router.choosing)}" if router.choosing else ""
    what = f"the weights follow {router.score_function}{chosen}, although {known.who}"
    _find(case, "error", what, None, OTHER_FUNCTION)
    return True


def _judge_choice(case: Case[BrokenContractLimits], contract: Contract, kin: list[RouterEvidence]) -> None:
    router = case.evidence.router
    usual = usual_groups(kin)
    if router.kind == "hash" or contract.other_choice is None:
        return
    other = _share(contract.other_choice, contract.chosen)
    outside = _share(contract.outside_groups, contract.chosen)
    if router.groups and router.groups.fill == "0" and _over(case, outside):
        what = f"in {percent(outside)} of the tokens an expert outside the best groups is chosen"
        _find(case, "warning", what, outside, ZERO_MASK)
    elif not _over(case, other):
        if router.groups is None and usual is not None:
            what = f"the choice ignores the groups ({usual.kept} of {usual.count}) by which the other layers choose"
            _find(case, "error", what, None, OUTSIDE_GROUPS)
    elif contract.other_choice_unbiased is not None and not _over(
        case, _share(contract.other_choice_unbiased, contract.chosen)
    ):
        what = f"{percent(other)} of the tokens have the experts that the scores give without the selection bias"
        meant = any(map(_uses_bias, kin)) or (router.reference is not None and router.reference.biased_choice)
        _find(case, "error" if meant else "warning", what, other, BIAS_UNUSED)
    elif router.choosing:
        scores = f"{' or '.join(router.choosing)} scores and weighted by {router.score_function} scores"
        what = f"{percent(other)} of the tokens have other experts than their weights' scores give: they are chosen by "
        _find(case, "error" if knows_choice(case.evidence) else "warning", what + scores, other, MIXED_SCORES)
    elif router.groups and _over(case, outside):
        what = f"in {percent(outside)} of the tokens an expert outside the best groups is chosen"
        _find(case, "error", what, outside, OUTSIDE_GROUPS)
    elif knows_choice(case.evidence) or any(map(_follows, kin)):
        what = f"in {percent(other)} of the tokens the chosen experts are not those that the rule gives"
        _find(case, "error", what, other, OTHER_CHOICE)
    else:
        case.skip("the selection rule of this family is not known")


def _judge_weights(case: Case[BrokenContractLimits], shown: Activations, contract: Contract, known: Expected) -> None:
    router, who = case.evidence.router, known.who
    if router.score_function is None:
        if shown.logits and shown.logits.nonfinite:
            case.skip("logits are not finite (see sqrt-nan)")
        elif known.functions:
            what = f"no score function, norm flag and factor explains the weights, although {who}"
            _find(case, "error", what, None, UNKNOWN_WEIGHTS)
        else:
            case.skip("the rule of this family is not known")
        return
    other = _share(contract.other_weighting, contract.weighed)
    biased = _share(contract.other_weighting_biased, contract.weighed)
    if _over(case, other):
        if contract.other_weighting_biased is not None and not _over(case, biased):
            what = f"in {percent(other)} of the tokens the weights are made of the scores with the selection bias"
            _find(case, "error", what, other, BIASED_WEIGHTS)
        elif known.functions:
            what = f"in {percent(other)} of the tokens the weights are not those of the scores, although {who}"
            _find(case, "error", what, other, UNKNOWN_WEIGHTS)
        else:
            case.skip("the rule of this family is not known")


def _uses_bias(router: RouterEvidence) -> bool:
    contract = router.activations.contract if router.activations else None
    return _follows(router) and bool(contract and contract.other_choice_unbiased)


def _follows(router: RouterEvidence) -> bool:
    """Whether a router chooses by the rule that was fitted to it."""
    contract = router.activations.contract if router.activations else None
    return contract is not None and contract.chosen > 0 and contract.other_choice == 0


def _share(count: int | None, total: int) -> float:
    return (count or 0) / total if total else 0.0


def _over(case: Case[BrokenContractLimits], share: float) -> bool:
    return share >= case.limits.share_error


def _find(case: Case[BrokenContractLimits], severity: Severity, what: str, share: float | None, cause: str) -> None:
    limit = "" if share is None else f" (the limit is {percent(case.limits.share_error)})"
    case.find(
        severity,
        what + limit,
        quantity="share of tokens that break the rule" if share is not None else "rule of the router",
        measured=share,
        limit=None if share is None else "share_error",
        cause=cause,
        remedy=_REMEDIES[cause],
    )
