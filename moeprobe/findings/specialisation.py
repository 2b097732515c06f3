"""Specialisation: what the experts of one router do, and what their load means for capacity and placement.

Only measurements, no verdict; ``findings/answers.py`` puts them into words. Information is in nats. None: not
measured, or too little was seen.
"""

from typing import Literal

from moeprobe.findings.numbers import Interval
from moeprobe.findings.plain import Plain

QUESTIONS = ("token id", "position", "source", "language", "task")
"""What the choice of experts may depend on; the last three are labels of whole documents."""

AnswerVerdict = Literal["total", "yes", "hardly", "no", "not answered"]


class Information(Plain):
    """How much a label of a token says about its experts: mutual information of the label and one of its experts.

    A token that has k experts counts k times, each time as one of them. ``plugin`` is the mutual information of the
    table of counts, which is never 0 in a sample; ``null_mean`` and ``null_spread`` (standard deviation) are the same
    where labels were given at random. ``bias`` is what sampling adds to ``plugin`` (for ids and positions the
    mean of the null, for labels of documents by the jackknife), ``excess`` = ``plugin`` - ``bias``, with its 99 %
    interval over documents.
    ``bound`` is what chance alone exceeds in one of a hundred models, all layers taken together.
    ``entropy`` is the entropy of the load, ``possible`` the most that any label could say: ``entropy`` minus the
    entropy that is left if the token's whole set of experts is known (ln k for k experts).
    """

    labels: int
    documents: int
    tokens: int
    plugin: float
    null_mean: float
    null_spread: float
    bound: float
    bias: float
    excess: Interval
    entropy: float
    possible: float

    @property
    def beyond_chance(self) -> bool:
        """Whether the label says more than chance does."""
        return self.plugin > self.bound

    @property
    def share(self) -> float:
        """Excess as a share of the routing entropy; 0 where all tokens go to the same experts."""
        return self.excess.value / self.entropy if self.entropy > 0 else 0.0

    @property
    def of_possible(self) -> float | None:
        """Adjusted mutual information: 0 by chance, 1 where the label alone decides (Vinh et al., JMLR 2010)."""
        room = self.possible - self.bias
        return self.excess.value / room if room > 1e-9 else None

    @property
    def total(self) -> bool:
        """Whether nothing but the label decides: not one token was routed otherwise than its like."""
        return self.beyond_chance and abs(self.possible - self.plugin) < 1e-9 * max(1.0, self.entropy)


class LabelUse(Plain):
    """OLMoE's domain specialisation of one label: the largest share of its tokens that use one expert.

    ``chance`` is the mean of the same where labels were dealt to the documents at random; even routing gives k/E.
    """

    label: str
    tokens: int
    expert: int
    share: float
    chance: float


class FrequentToken(Plain):
    """A token id that an expert attracts: the share of its occurrences that use the expert."""

    id: int
    text: str
    share: float


class TokenUse(Plain):
    """What single token ids do, over the ids seen often enough.

    ``vocabulary``: OLMoE's vocabulary specialisation, the mean over ids of the largest share of an id's occurrences
    that use one expert. ``spread``: OpenMoE's routing standard deviation at a token id, over the experts' shares of
    the assignments, mean over ids. Each beside the same after the choices were turned in a circle within documents.
    ``top`` [experts]: the ids that an expert attracts most.
    """

    ids: int
    occurrences: int
    tokens: int
    vocabulary: float
    vocabulary_chance: float
    spread: float
    spread_chance: float
    top: list[list[FrequentToken]]


class Pair(Plain):
    """Two experts that are chosen together: share of the tokens, and the share that independence would give."""

    first: int
    second: int
    share: float
    expected: float


class CoActivation(Plain):
    """All pairs of experts of a token against independence with the same loads.

    ``distance``: total variation between seen and expected pairs; ``floor`` is what sampling alone would show if
    tokens were independent. ``attracted`` and ``repelled`` are the pairs farthest above and below the expectation.
    """

    tokens: int
    distance: float
    floor: float
    attracted: list[Pair]
    repelled: list[Pair]


class Repeats(Plain):
    """Consecutive tokens that go to the same expert, as shares of all consecutive pairs (2401.04088, table 5).

    ``first``: the same expert has the largest weight. ``either``: at least one of the k experts is shared.
    ``overlap``: the mean share of the k experts that is shared. The ``_chance`` of each is the same between
    tokens of one document in random order, the ``_even`` what even and independent routing gives.
    """

    pairs: int
    first: Interval
    first_chance: float
    first_even: float
    either: Interval
    either_chance: float
    either_even: float
    overlap: Interval
    overlap_chance: float
    first_by_source: dict[str, float]


class Drops(Plain):
    """Assignments that find no place at a capacity factor, as shares of all assignments.

    ``group``: what shares one capacity. ``by_tenth`` [10] along the sequence, first tenth first (None: no token).
    """

    factor: float
    group: Literal["sequence", "batch"]
    share: float
    by_tenth: list[float | None]


class Capacity(Plain):
    """Drops: ``simulated`` for stated capacity factors, or ``measured`` where the model itself drops tokens."""

    assignments: int
    simulated: list[Drops]
    measured: float | None
    measured_by_tenth: list[float | None] | None


class TrainingLosses(Plain):
    """Auxiliary losses of training, computed on the probe as a whole.

    ``switch``: E sum_e f_e P_e with the share f_e of tokens whose first choice is e (2101.03961, eq. 4 to 6, without
    the weight; GShard's is the same); 1 where even. ``transformers``: the same with all k choices of the softmax, as
    ``load_balancing_loss_func`` computes it; k where even. ``z``: mean squared log-sum-exp of the logits (2202.08906).
    ``log_sum_exp``: mean of the log-sum-exp minus ln E. ``softmax``: whether the router's own scores are a softmax
    over all experts, without which the first two say nothing about it.
    """

    tokens: int
    switch: float
    transformers: float
    z: float
    log_sum_exp: float
    softmax: bool


class Placement(Plain):
    """The experts of one layer on ``devices`` devices, equally many on each.

    ``contiguous`` and ``packed`` are the load of the fullest device over the mean, for experts in their order and for
    a packing planned on half of the documents; both are taken on the other half. ``..._sent`` is to how many
    devices a token is sent on average. ``packing`` [experts] is the device of each expert, planned on all documents.
    """

    devices: int
    contiguous: float
    packed: float
    contiguous_sent: float
    packed_sent: float
    packing: list[int]


class Placements(Plain):
    """The plans of one layer, one for each number of devices."""

    plans: list[Placement]


class RouterSpecialisation(Plain):
    """What the experts of one router do. ``information`` by question, ``labels`` by question for document labels."""

    information: dict[str, Information] = {}
    labels: dict[str, list[LabelUse]] = {}
    tokens: TokenUse | None = None
    coactivation: CoActivation | None = None
    repeats: Repeats | None = None
    capacity: Capacity | None = None
    losses: TrainingLosses | None = None
    placement: Placements | None = None


class Answer(Plain):
    """One question in words.

    ``verdict``: ``total`` (nothing else decides), ``yes``, ``hardly`` (beyond chance, but less than 1 % of the routing
    entropy in every layer), ``no``, or ``not answered``. ``sentence`` says why, without the verdict.
    """

    question: str
    verdict: AnswerVerdict
    sentence: str


class Specialisation(Plain):
    """What holds for the model as a whole.

    ``answers`` are the verdicts in words; ``transformers_balance_loss`` is the balance loss that transformers would
    log, pooled over all layers (None where layers differ in experts or top-k). ``documents`` [question] how many
    documents carry the label.
    """

    answers: list[Answer]
    documents: dict[str, int]
    transformers_balance_loss: float | None
