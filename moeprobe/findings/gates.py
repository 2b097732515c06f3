"""GateReport: what other score functions and balance rules would do with a model's own logits, in plain numbers."""

from pathlib import Path
from typing import Literal

from moeprobe.findings.evidence import Probe
from moeprobe.findings.numbers import Quantiles
from moeprobe.findings.plain import Plain
from moeprobe.findings.result import Environment, Model, Unchecked, write_text
from moeprobe.findings.router import Router, ScoreFunction

BalanceRule = Literal["sign", "centred sign", "proportional"]
SCHEMA_VERSION: Literal[1] = 1


class Law(Plain):
    """A bias held against the balance law b = const - Q_e(1 - k/E); None where one of both does not vary."""

    correlation: float | None
    slope: float | None


class Alternative(Plain):
    """One score function on the recorded logits of one router.

    ``own``: the model's own function. The weights are those of the experts that the model chose, renormalised.

    Attributes:
        weights: exp(entropy) of the k weights of a token, 1 to k experts.
        scores: exp(entropy) of all scores of a token, made to sum to 1; 1 to E experts.
        temperature: d ln(score) / d logit of the chosen experts: by how much the ratio of two weights follows the
            difference of their logits.
        faded: share of all (token, expert) pairs whose d score / d logit is below 1 % of its largest possible value;
            ``faded_chosen`` among the chosen experts.
        exact: dtype -> share of pairs whose score is exactly 0, or exactly 1 where 1 is the limit.
        ties: dtype -> share of tokens with equal scores on both sides of the choice, without any selection bias; empty
            for hash tables.
        changed: dtype -> share of tokens whose experts, with the model's own bias where the function is its own, are
            not those of float64.
        coupling: off-diagonal share of the Jacobian of the scores (sum of absolute entries).
        coupling_weights: the same of the renormalised weights of the chosen experts; None with one expert a token.
        unchosen_gradient: largest absolute derivative of a renormalised weight by the logit of an expert not chosen.
        flips: bias step -> share of selections that change when every bias moves by it, up or down at random.

    """

    function: ScoreFunction
    own: bool
    weights: Quantiles
    scores: Quantiles
    temperature: Quantiles
    faded: float
    faded_chosen: float
    exact: dict[str, float]
    ties: dict[str, float] = {}
    changed: dict[str, float] = {}
    coupling: float
    coupling_weights: float | None
    unchosen_gradient: float | None
    flips: dict[str, float] = {}


class RuleRun(Plain):
    """One balance rule, run from a bias of zero.

    ``max_vio`` and ``offset`` (the mean of the bias) are seen after the numbers of updates in ``updates``; the
    former on
    rows that the rule does not see. ``settled``: first of ``updates`` from which MaxVio stays within twice its floor,
    None if it never does. ``final`` is the mean MaxVio of the last quarter, ``spread`` the standard deviation of the
    last bias over experts, ``law`` that bias against the law, ``own`` its correlation with the checkpoint's own.
    """

    rule: BalanceRule
    updates: list[int]
    max_vio: list[float]
    offset: list[float]
    settled: int | None
    final: float
    spread: float
    law: Law
    own: float | None


class Controller(Plain):
    """The balance rules on the scores of one router.

    ``floor`` is the MaxVio that even routing would show by chance on ``rows`` rows; ``unbiased`` and ``by_checkpoint``
    are MaxVio on them without a bias and with the checkpoint's own (None: it has none). ``one_shot`` is MaxVio with
    the bias that the law gives from the rows that the rules see. ``law`` holds the checkpoint's own bias.
    """

    function: ScoreFunction | Literal["logits"]
    step: float
    batch: int
    rows: int
    floor: float
    unbiased: float
    by_checkpoint: float | None
    one_shot: float
    own_offset: float | None
    own_spread: float | None
    law: Law | None
    rules: list[RuleRun]


class GateLayer(Plain):
    """One router: ``rows`` sampled of ``tokens`` seen. ``without_controller`` says why there is none."""

    router: Router
    tokens: int
    rows: int
    recomputed: bool
    alternatives: list[Alternative]
    controller: Controller | None
    without_controller: str = ""


class GateReport(Plain):
    """Everything that ``moeprobe gates`` measured; gates.md is a function of it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: Model
    dtype: str
    probe: Probe
    seed: int
    layers: list[GateLayer]
    not_measured: list[Unchecked]
    environment: Environment

    def save(self, path: Path) -> Path:
        """Write it as JSON.

        Raises:
            OutputError: the file cannot be written.

        """
        return write_text(path, self.model_dump_json(indent=2) + "\n")
