"""Evidence: everything that a detector may read, as plain numbers.

One ``RouterEvidence`` per router: its facts, what its weights say, and what the probe showed. A part that was
not measured is None, and a detector that needs it says *skipped*.
"""

from moeprobe.findings.contract import Contract
from moeprobe.findings.drift import Base, Drift
from moeprobe.findings.numbers import Interval, Quantiles
from moeprobe.findings.plain import Plain
from moeprobe.findings.router import Router
from moeprobe.findings.specialisation import RouterSpecialisation, Specialisation
from moeprobe.findings.unread import Unread
from moeprobe.findings.weights import ExpertWeights, GateShape, HashTable, NormGain


class GateWeights(Plain):
    """What the router's own tensors say without a forward pass.

    ``logit_bound`` [experts] is the largest absolute logit that any input can cause: sqrt(D) * ||W_e * gamma||
    (Cauchy-Schwarz behind an RMS norm of weight gamma; docs/science.md A2), plus the logit bias where there is one.
    It is None where no RMS norm before the router could be verified. ``nearest_row`` [experts] is the other row of
    the largest ``row_cosine`` [experts]; the mean row, which prefers nobody, is taken off before. ``directions`` is how
    many directions hold all but 1e-4 of what the rows differ by, ``distinct`` the share of distinct values among
    neighbouring entries, ``norm`` the gain of the norm before the router. ``dtype`` is that of the matrix, or the
    format in which a quantised checkpoint stores it.
    """

    dtype: str
    nonfinite_rows: list[int]
    zero_rows: list[int]
    identical_rows: list[tuple[int, int]]
    row_norms: list[float]
    logit_bound: list[float] | None
    hash_table: HashTable | None
    nearest_row: list[int] | None = None
    row_cosine: list[float] | None = None
    shape: GateShape | None = None
    directions: int | None = None
    distinct: float | None = None
    norm: NormGain | None = None


class Load(Plain):
    """Who was chosen. ``counts`` [experts] assignments; ``max_vio`` = max / mean - 1 (2408.15664, eq. 4).

    ``max_vio_floor`` is the mean MaxVio that a perfectly uniform router would show at this token count.
    ``by_source`` [sources][experts] counts. The ``unbiased`` numbers are for the selection without its bias.
    ``design_effect`` [experts] is how many tokens tell as much about an expert's share as one independent token
    would, since the tokens of a document are alike; None for an expert with too few hits to say.
    """

    counts: list[int]
    by_source: dict[str, list[int]]
    source_tokens: dict[str, int]
    max_vio: Interval
    max_vio_floor: float
    entropy: float
    unbiased_counts: list[int] | None
    unbiased_max_vio: Interval | None
    design_effect: list[float | None] | None = None


class ExtremeLogit(Plain):
    """The smallest or largest finite logit seen, the expert and the token id that gave it."""

    value: float
    expert: int
    token_id: int | None


class Logits(Plain):
    """Logits of all experts on all tokens.

    ``std`` is the spread over experts within a token, recomputed in float32 from the recorded router input;
    ``mean`` the average logit (the common offset); ``token_share`` the share of the variance, after each
    expert's mean is removed, that depends on the token (below 0.1 the token hardly matters).
    ``signal_to_rounding`` = std / rms(native - float32), centred per token.
    ``selected_below_naive`` and ``selected_below_clamp`` are shares of chosen pairs below -16.64 and -13.82.
    """

    std: Quantiles
    mean: float
    smallest: ExtremeLogit | None
    largest: ExtremeLogit | None
    nonfinite: int
    token_share: float | None
    signal_to_rounding: float | None
    selected_below_naive: float
    selected_below_clamp: float


class Selection(Plain):
    """How firm the choice is, as shares of tokens.

    ``margin``: gap between the k-th and the next selection score, in units of the scores' spread over experts.
    ``ties``: the float32 selection scores tie across that boundary. ``modal``: tokens with the most frequent
    expert set. ``bias_only``: tokens whose set is the top-k of the bias alone. ``flips_noise``: the set changes
    under relative noise of 2**-8 on the router input. ``flips_float32``: it differs from the one recomputed
    in float32.
    """

    margin: Quantiles
    ties: float
    modal: float
    bias_only: float | None
    flips_noise: float
    flips_float32: float


class Weights(Plain):
    """Routing weights. ``promise`` is sum(weights) / what the declared rule gives for the recorded logits."""

    sum: Quantiles
    smallest_sum: float | None
    largest_sum: float | None
    promise_smallest: float | None
    promise_largest: float | None
    broken_promises: int | None
    nonfinite: int
    smallest_chosen_score: float | None


class Magnitudes(Plain):
    """L2 norms per token: routed output, gated shared output, residual stream before the block."""

    routed_to_shared: Quantiles | None
    routed_to_residual: Quantiles | None
    routed_nonfinite: int
    routed_zero: int
    input_rms: float
    routed_rms: float | None
    input_token_spread: float | None


class BalanceLaw(Plain):
    """The bias against -Q_e(1 - k/E), ``quantiles`` [columns] of each expert's own score (docs/science.md B2)."""

    correlation: float | None
    slope: float | None
    quantiles: list[float] = []


class TokenIds(Plain):
    """Mutual information between token id and chosen expert, in nats, beside its shuffle null."""

    information: float
    shuffled: float
    entropy: float
    ids: int
    tokens: int


class HashUse(Plain):
    """Recorded choices of a hash router against its table."""

    mismatches: int
    predicted_counts: list[int]


class Activations(Plain):
    """What the probe showed at one router."""

    tokens: int
    documents: int
    distinct_ids: int
    load: Load
    logits: Logits | None = None
    selection: Selection | None = None
    weights: Weights | None = None
    magnitudes: Magnitudes | None = None
    balance_law: BalanceLaw | None = None
    token_ids: TokenIds | None = None
    hash_use: HashUse | None = None
    contract: Contract | None = None


class RouterEvidence(Plain):
    """One router: its facts, its weights, its experts' weights, its activations, its drift from a base model.

    ``specialisation`` is what its experts do, where the recipe asks for it; no detector reads it.
    """

    router: Router
    weights: GateWeights | None = None
    experts: ExpertWeights | None = None
    activations: Activations | None = None
    drift: Drift | None = None
    specialisation: RouterSpecialisation | None = None


class ScalePoint(Plain):
    """Mean loss (nats per token) with the routed branch multiplied by ``multiplier``."""

    multiplier: float
    loss: float


class ScaleCurve(Plain):
    """Loss in a multiplier on the routed branch, of all layers (``router`` None) or of one.

    ``best`` has the least loss; ``interior`` means that it is not at an edge of the (extended) grid. ``gain``
    is the mean paired gain over multiplier 1 in nats per token, ``standard_error`` its error over documents,
    ``sources_gaining`` of ``sources`` agree.
    """

    router: str | None
    points: list[ScalePoint]
    best: float
    interior: bool
    gain: float
    standard_error: float
    sources_gaining: int
    sources: int
    documents: int
    tokens: int


class ChoiceTest(Plain):
    """What the choice of one layer is worth, in nats per token, with 99 % intervals over documents.

    ``rise`` is the rise of the mean loss when every token is sent to random experts instead, ``stir`` the root
    mean square of what that does to the loss of a single token, ``removed`` the rise when the layer's routed
    branch is removed altogether, and ``share`` = rise / removed (None where the branch is not clearly worth
    anything). ``rise`` and ``stir`` are averaged over ``repetitions`` random choices.
    """

    router: str
    rise: Interval
    stir: float
    removed: float
    share: Interval | None
    repetitions: int
    documents: int
    sources: int
    tokens: int


class Backward(Plain):
    """A backward pass through one router alone, on the recorded tokens where a score was exactly zero.

    ``tokens`` 0: no score underflowed, so nothing had to be tried. ``nonfinite`` counts the entries of the
    gradients of gate and input that are NaN or infinite, ``experts`` are the gate rows that hold such entries.
    """

    tokens: int = 0
    nonfinite: int = 0
    experts: list[int] = []


class Experiments(Plain):
    """Results of what had to touch the model; each left it bit-identical.

    ``loss`` is the mean loss of the texts that the experiments read, not finite where none could be made.
    """

    loss: float | None = None
    loss_tokens: int = 0
    scale: list[ScaleCurve] = []
    choice: list[ChoiceTest] = []
    gradient: dict[str, Backward] = {}
    """By router path; a router that is missing could not be tried (its logits are not known)."""


class Probe(Plain):
    """What was read: documents, tokens by source, how the texts were cut, a digest of all token ids in order."""

    name: str
    documents: int
    sources: dict[str, int]
    """Documents by source."""
    tokens: int
    tokens_by_source: dict[str, int]
    max_length: int
    truncated: int
    digest: str | None = None


class Evidence(Plain):
    """All that is known about a checkpoint's routing.

    ``unread`` is what the checkpoint holds and no model reads; None where the files were not seen.
    """

    model_type: str
    dtype: str
    routers: list[RouterEvidence]
    experiments: Experiments | None = None
    probe: Probe | None = None
    base: Base | None = None
    specialisation: Specialisation | None = None
    unread: list[Unread] | None = None
