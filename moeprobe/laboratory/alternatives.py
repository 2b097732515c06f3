"""What softmax, sigmoid and sqrt(softplus) would make of the same logits (formulas in docs/science.md D)."""

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from moeprobe.findings.gates import Alternative
from moeprobe.findings.numbers import Quantiles
from moeprobe.findings.router import Groups, ScoreFunction
from moeprobe.gates.decision import combine
from moeprobe.laboratory.sample import RouterSample
from moeprobe.routers.rule import SCORE_FUNCTIONS, choose, same_set, scores, selection_scores

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STEPS = (1e-3, 1e-2)
"""Bias steps: 1e-3 is that of Loss-free balancing and DeepSeek-V3 (2408.15664, 2412.19437)."""
_FADED = 0.01
_DRAWS = 8
"""Random signs of a bias step, averaged."""
_JACOBIANS = 2**22
"""Entries of Jacobians at one time, at most."""


def alternatives(sample: RouterSample, seed: int) -> list[Alternative]:
    """Every score function on the sampled rows of one router."""
    return [_alternative(sample, function, seed) for function in SCORE_FUNCTIONS]


def _alternative(sample: RouterSample, function: ScoreFunction, seed: int) -> Alternative:
    router = sample.gate.router
    own = router.score_function == function
    logits, experts = sample.logits.double(), sample.experts
    score = scores(logits, function)
    chosen = logits.gather(-1, experts)
    slope = derivative(logits, function)
    weak = slope < _FADED * steepest(function)
    learned = router.kind == "top-k"
    changed, ties, flips = {}, {}, {}
    if learned:
        chooser = Chooser(sample, function)
        reference = chooser.choose(logits)
        for dtype in DTYPES:
            rounded = sample.logits.to(dtype)
            # A bias in float32 parts equal scores by its own order, so ties are counted without it.
            ties[_name(dtype)] = _tied(selection_scores(chooser.ranked(rounded), None, router.groups), router.top_k)
            changed[_name(dtype)] = float((~same_set(chooser.choose(rounded), reference)).double().mean())
        flips = {f"{step:g}": _flips(chooser, logits, reference, step, seed) for step in STEPS}
    return Alternative(
        function=function,
        own=own,
        weights=_quantiles(_effective(combine(score, experts, renormalise=True))),
        scores=_quantiles(_effective(score / score.sum(dim=-1, keepdim=True))),
        temperature=_quantiles(steepness(chosen, function).flatten()),
        faded=float(weak.double().mean()),
        faded_chosen=float(weak.gather(-1, experts).double().mean()),
        exact={_name(dtype): _exact(scores(sample.logits.to(dtype), function), function) for dtype in DTYPES},
        ties=ties,
        changed=changed,
        **_coupling(sample.logits, experts, function),
        flips=flips,
    )


class Chooser:
    """How one router would choose with a score function: its own bias only with its own function, its groups always."""

    def __init__(self, sample: RouterSample, function: ScoreFunction) -> None:
        gate = sample.gate
        self._gate, self._function = gate, function
        self._own = gate.router.score_function == function
        bias = gate.selection_bias if self._own else None
        self.bias = None if bias is None else bias.detach().float().cpu()

    @property
    def groups(self) -> Groups | None:
        """The groups of the router."""
        return self._gate.router.groups

    def ranked(self, logits: Tensor) -> Tensor:
        """What the bias is added to, in the dtype of ``logits``."""
        if self._own and self._gate.router.bias_on == "logits":
            return logits
        return scores(logits, self._function)

    def selection(self, logits: Tensor, more: Tensor | None = None) -> Tensor:
        """What the top-k looks at; ``more`` [columns] is added to the bias. The sum is torch's, as in the routers."""
        bias = self.bias
        if more is not None:
            bias = more if bias is None else bias + more
        return selection_scores(self.ranked(logits), bias, self.groups)

    def choose(self, logits: Tensor, more: Tensor | None = None) -> Tensor:
        """The experts [rows, k]."""
        return choose(self.selection(logits, more), self._gate.router.top_k)


def derivative(logits: Tensor, function: ScoreFunction) -> Tensor:
    """The derivative of every score by its own logit."""
    if function == "softmax":
        share = logits.softmax(dim=-1)
        return share * (1 - share)
    sigma = logits.sigmoid()
    if function == "sigmoid":
        return sigma * (1 - sigma)
    return sigma / (2 * scores(logits, "sqrtsoftplus"))


def steepest(function: ScoreFunction) -> float:
    """The largest value that the derivative of a score can take: 1/4, or that of sqrt(softplus) found on a grid."""
    if function != "sqrtsoftplus":
        return 0.25
    return float(derivative(torch.linspace(0, 3, 30_001, dtype=torch.float64), function).max())


def steepness(logits: Tensor, function: ScoreFunction) -> Tensor:
    """Give d ln(score) / d logit, without the common normaliser of a softmax: 1, 1 - sigma, sigma / (2 softplus)."""
    if function == "softmax":
        return torch.ones_like(logits)
    if function == "sigmoid":
        return (-logits).sigmoid()
    found: Tensor = logits.sigmoid() / (2 * scores(logits, "sqrtsoftplus").square())
    return found


def _effective(weights: Tensor) -> Tensor:
    """exp(entropy) of weights [rows, n] that sum to 1."""
    found: Tensor = torch.special.entr(weights).sum(dim=-1).exp()
    return found


def _tied(selection: Tensor, k: int) -> float:
    if selection.shape[-1] <= k:
        return 0.0
    best = selection.topk(k + 1, dim=-1).values
    return float((best[:, k - 1] == best[:, k]).double().mean())


def _exact(score: Tensor, function: ScoreFunction) -> float:
    ended = score == 0
    if function != "sqrtsoftplus":
        ended |= score == 1
    return float(ended.double().mean())


def _flips(chooser: Chooser, logits: Tensor, reference: Tensor, step: float, seed: int) -> float:
    """Share of the chosen slots that leave when every bias moves by ``step``, up or down at random."""
    generator = torch.Generator().manual_seed(seed)
    lost = 0.0
    for _ in range(_DRAWS):
        signs = torch.randint(0, 2, (logits.shape[-1],), generator=generator).double() * 2 - 1
        moved = chooser.choose(logits, step * signs)
        kept = (moved.unsqueeze(-1) == reference.unsqueeze(-2)).any(dim=1)
        lost += float((~kept).double().mean()) / _DRAWS
    return lost


def _coupling(logits: Tensor, experts: Tensor, function: ScoreFunction) -> dict[str, float | None]:
    """Jacobians by automatic differentiation, of the scores and of the renormalised weights of the chosen experts."""
    columns, k = logits.shape[-1], experts.shape[-1]
    rows = max(1, min(64, _JACOBIANS // columns**2, logits.shape[0]))
    some, chosen = logits[:rows].double(), experts[:rows]

    def weights(row: Tensor, picked: Tensor) -> Tensor:
        found = scores(row, function).gather(-1, picked)
        return found / found.sum(dim=-1, keepdim=True)

    whole = vmap(jacrev(lambda row: scores(row, function)))(some).abs()
    before = _off_diagonal(whole)
    if k == 1:
        return {"coupling": before, "coupling_weights": None, "unchosen_gradient": None}
    jacobian = vmap(jacrev(weights))(some, chosen).abs()
    inside = jacobian.gather(-1, chosen.unsqueeze(1).expand(-1, k, -1))
    after = _off_diagonal(inside)
    outside = jacobian.scatter(-1, chosen.unsqueeze(1).expand(-1, k, -1), 0.0)
    return {"coupling": before, "coupling_weights": after, "unchosen_gradient": float(outside.max())}


def _off_diagonal(jacobians: Tensor) -> float:
    """Share of the entries [rows, n, n], none negative, that stand off the diagonal."""
    outside = jacobians.diagonal_scatter(torch.zeros_like(jacobians[..., 0]), dim1=-2, dim2=-1)
    return float(outside.sum() / jacobians.sum().clamp_min(1e-300))


def _quantiles(values: Tensor) -> Quantiles:
    at = torch.tensor([0.01, 0.05, 0.5, 0.95, 0.99], dtype=torch.float64)
    flat = values.double().flatten()
    # torch.quantile refuses more than 2**24 entries.
    p01, p05, p50, p95, p99 = flat[:: flat.numel() // 2**23 + 1].quantile(at).tolist()
    return Quantiles(p01=p01, p05=p05, p50=p50, p95=p95, p99=p99)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
