"""Drift: one router against the same router of a base model, on the same tokens."""

from typing import Literal

from moeprobe.findings.numbers import Interval
from moeprobe.findings.plain import Plain


class LoadShift(Plain):
    """An expert whose load changed by a factor of two or more; loads in fair shares, ``ratio`` = tuned / base."""

    expert: int
    base: float
    tuned: float
    ratio: Interval


class BiasDrift(Plain):
    """Change of the selection bias without its median, which top-k cannot see.

    ``largest`` is the largest absolute change, at ``expert``; ``spread`` is the interquartile range of the
    base's bias.
    """

    largest: float
    expert: int
    spread: float


class Renumbering(Plain):
    """The experts in another order: ``now`` [columns] is where each expert of the base is found in the tuned model.

    ``likeness`` is the mean correlation over tokens of the logits (in a hash layer: of who is chosen) of the experts
    that moved with those at their new places, ``likeness_as_is`` with those at their old places. ``together``: whether
    the experts' tensors moved with the gate's rows, None where that is not known. ``aligned``: whether the drift was
    counted in the new order.
    """

    now: list[int]
    likeness: float
    likeness_as_is: float
    together: bool | None = None
    aligned: bool = False


FactName = Literal[
    "top-k", "score function", "renormalisation", "scaling factor", "output factor", "groups", "selection bias",
    "place of the bias",
]  # fmt: skip


class FactChange(Plain):
    """A fact about the routing rule that is not the base's; both values in words."""

    name: FactName
    base: str
    tuned: str


class Receiver(Plain):
    """An expert of the base that took over tokens of one that is gone: ``share`` of its tokens' new choices."""

    expert: int
    share: float


class LostExpert(Plain):
    """An expert of the base that the tuned model lacks.

    ``load``: its load in the base, in fair shares; ``tokens`` that the base sent to it. ``receivers``: the experts that
    these tokens are sent to now and were not in the base, most first, under the base's numbers.
    """

    expert: int
    load: float
    tokens: int
    receivers: list[Receiver]


class Pruning(Plain):
    """Experts of the base that are gone; ``kept`` [columns of the tuned model] is the base's number of each one left.

    ``together``: whether each of those left has the tensors of the base's expert that its gate row belongs to; None
    where that is not known.
    """

    kept: list[int]
    gone: list[LostExpert]
    together: bool | None


class Drift(Plain):
    """How one router's choice differs from the base's (docs/science.md A6). None: not measured.

    ``overlap``: share of the base's experts that are still chosen (overlap@k). ``same_sets``: share of tokens
    with the same set of experts. ``firm_sets``: the same, each token weighted by the base's margin between its
    last chosen and first left-out expert, so that near-ties count little. ``firm_overlap``: ``overlap`` with the same
    weights; unlike whole sets, it does not fall with the number of experts that a token is sent to. ``weight_l1``: L1
    distance of the routing weights over the union of experts, relative to the base's sum (0 to 2). ``load_tv``: total
    variation between the loads; ``load_tv_floor`` is its mean between two samples of documents of the base alone.
    ``logits``: root mean square change of the logits relative to the base's spread over experts (the
    per-token offset, which softmax cannot see, is removed from softmax routers). ``own_sets``: share of tokens
    that base and tuned gate send to the same set *given the same inputs*, the tuned model's, in float32.
    ``rounding``: the larger share of sets, of base and tuned, that differs from a float32 recomputation of the
    same router. ``nonfinite``: tokens left out of the logits' change. ``table_changed`` of ``table_rows`` rows of the
    hash table differ (as sets).

    ``facts`` are those that differ, ``gate_same`` and ``bias_same`` whether the gate's own matrix and the biases are
    equal bit for bit (in the coarser dtype of the two), ``experts_changed`` how many experts' tensors are not equal bit
    for bit. Where experts are gone, the base is one without them, and every number is the tuned model's
    (``pruning.kept`` tells whose). Where ``renumbering.aligned``, the numbers are the tuned model's as well.
    """

    tokens: int
    documents: int
    overlap: Interval
    same_sets: Interval
    firm_sets: Interval | None
    firm_overlap: Interval | None = None
    weight_l1: Interval | None
    load_tv: Interval
    load_tv_floor: float | None
    logits: Interval | None
    nonfinite: int
    own_sets: Interval | None
    rounding: float | None
    bias: BiasDrift | None
    table_rows: int | None
    table_changed: int | None
    renumbering: Renumbering | None
    shifts: list[LoadShift]
    facts: list[FactChange] = []
    gate_same: bool | None = None
    bias_same: bool | None = None
    experts_changed: int | None = None
    pruning: Pruning | None = None


class Base(Plain):
    """The model that was compared with; ``saved`` names the result that it was read from, if it was.

    ``others_same``: whether all that is neither expert nor gate is equal bit for bit (None: not compared).
    """

    source: str
    name: str
    revision: str | None
    dtype: str
    saved: str | None = None
    tokenizer: str = "the same"
    others_same: bool | None = None
