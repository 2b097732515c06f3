"""Router: the facts about one gate."""

from typing import Literal

from moeprobe.findings.plain import Plain

ScoreFunction = Literal["softmax", "sigmoid", "sqrtsoftplus"]


class Bias(Plain):
    """A bias with one value an expert.

    ``values`` [experts] as they are used, ``name`` of the tensor inside the router, ``dtype`` in the loaded
    model, ``stored_dtype`` in the checkpoint file (None where the file was not read).
    """

    name: str
    dtype: str
    stored_dtype: str | None
    values: list[float]


class Groups(Plain):
    """Group-limited selection: ``kept`` of ``count`` groups stay eligible.

    ``score`` says what ranks the groups (the best member, or the sum of the two best), ``fill`` what replaces
    the scores of the groups that are left out.
    """

    count: int
    kept: int
    score: Literal["max", "top2-sum"]
    fill: Literal["-inf", "0"]


class Arithmetic(Plain):
    """Dtypes observed while the router ran: logit product, score function, selection, weights handed on."""

    product: str | None
    score: str | None
    selection: str | None
    weights: str | None


class Declared(Plain):
    """What the checkpoint's config promises; None where it says nothing.

    ``groups`` is (number of groups, groups that stay eligible); how groups are ranked and filled no config says.
    ``released_norm``: who says that the released configs of the family renormalise (None where nobody does).
    """

    score_function: str | None = None
    renormalised: bool | None = None
    scaling_factor: float | None = None
    selection_bias: bool | None = None
    groups: tuple[int, int] | None = None
    released_norm: str | None = None


class Stored(Plain):
    """How a quantised checkpoint stores a matrix: ``bits`` of each number, and the ``format`` in words."""

    bits: int
    format: str


class Reference(Plain):
    """The rule that transformers' own router class ``name`` follows with this config, measured on random numbers.

    ``explaining`` are the score functions that explain its weights, ``renormalised`` and ``scaling_factor`` as in
    ``Router``; ``selection_agreement`` is the share of random tokens whose choice the fitted selection reproduces,
    ``biased_choice`` whether that holds its bias.
    """

    name: str
    explaining: list[ScoreFunction]
    renormalised: bool | None
    scaling_factor: float | None
    selection_agreement: float | None = None
    biased_choice: bool = False


class Router(Plain):
    """Facts about one gate, measured on its first batch unless marked as declared.

    ``layer`` is the index of the decoder layer, ``experts`` the number of routed experts with parameters,
    ``score_columns`` the width of the logits (larger where a family has zero or skip experts). ``top_k`` is 0 where
    only the weights were read and the config does not name it.
    ``score_function``, ``renormalised`` and ``scaling_factor`` are fitted from logits and weights:
    weight = factor * score / (sum of the chosen scores, if renormalised). They are None where no score function
    explains the weights, the latter two also where it only explains their ratios inside a token (a norm shared with
    the shared experts). ``fit_error`` is the largest relative error of the fit (None where the rule was taken from
    a router of the same class), ``explaining`` all score functions that explain the weights and
    ``selection_agreement`` the share of tokens whose experts the fitted selection rule reproduces.
    ``expert_scale`` names a factor for each expert that the weights hold beside all this, ``logits`` says what the
    recorded logits are. ``bias_on`` says what the selection bias is added to before top-k; ``biased_weights``: only
    scores with the selection bias in them explain the weights. ``output_factor`` is a factor on the experts'
    output, not contained in the weights. ``norm`` is the path of the norm before the router's block. ``origin``
    says who named the router: transformers' own declaration, or its shape and place. ``verified`` means that it
    fired once per forward pass and that the experts received what it returned; ``misdispatched`` that they executed
    other rows, ``bypassed`` that its block ran without it, and not ``reached`` that the probe holds nothing for it
    (a vision router under text). ``stored`` says how the file holds the gate where it holds codes (None where it holds
    numbers, or where it was not read). ``reference`` is the rule of transformers' own class at this place (None where
    there is none, or its rule cannot be told). ``choosing`` are the score functions, other than that of the weights,
    whose scores explain the choice where those of the weights do not.
    """

    path: str
    layer: int | None
    kind: Literal["top-k", "hash"]
    module: str
    experts: int
    score_columns: int
    top_k: int
    hidden_size: int
    score_function: ScoreFunction | None = None
    renormalised: bool | None = None
    scaling_factor: float | None = None
    output_factor: float | None = None
    expert_scale: str | None = None
    logits: str = "returned"
    fit_error: float | None = None
    explaining: list[ScoreFunction] = []
    biased_weights: bool = False
    selection_agreement: float | None = None
    selection_bias: Bias | None = None
    bias_on: Literal["scores", "logits"] = "scores"
    logit_bias: Bias | None = None
    groups: Groups | None = None
    shared_experts: str | None = None
    shared_gate: bool = False
    norm: str | None = None
    arithmetic: Arithmetic | None = None
    declared: Declared = Declared()
    origin: Literal["declared", "found"]
    verified: bool = False
    misdispatched: bool = False
    bypassed: bool = False
    reached: bool = True
    stored: Stored | None = None
    reference: Reference | None = None
    choosing: list[ScoreFunction] = []
    reason: str = ""
