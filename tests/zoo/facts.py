"""One row of docs/families.md: what is measured on one case of the zoo."""

from collections.abc import Callable

import torch

from moeprobe import Router
from tests.zoo.case import Case, build
from tests.zoo.compare import recorded

HEAD = (
    "family", "class", "recorded", "sites", "experts", "k", "score", "weights", "factor", "bias", "groups",
    "on the output", "shared", "logits", "in bfloat16: product / score / choice", "weights", "bias",
)  # fmt: skip
NOTHING = "-"
MISDISPATCHED = "choice exact; other experts run"


def row(case: Case) -> list[str]:
    """Measure the case in float32 and, as loaded, in bfloat16, with padding on either side."""
    model, half = build(case), build(case, torch.bfloat16)
    runs = [recorded(case, each, padding) for each in (model, half) for padding in ("right", "left")]
    unlike = [line for _, _, lines in runs for line in lines]
    recording, truth, _ = runs[0]
    routers = recording.routers
    in_half = runs[2][0].routers
    missed = sorted({r.reason for r in routers if not r.verified and not r.misdispatched})
    exact = "exact" if not unlike and not missed else "; ".join([*unlike[:1], *missed])
    if exact == "exact" and any(router.misdispatched for router in routers):
        exact = MISDISPATCHED
    silent = f" of {len(truth) + len(recording.unread)}" if recording.unread else ""
    return [
        case.name,
        type(model).__name__,
        exact,
        f"{len(truth)}{silent}",
        _each(routers, _experts),
        _each(routers, lambda r: str(r.top_k)),
        _each(routers, _score),
        _each(routers, _norm),
        _each(routers, lambda r: _number(r.scaling_factor)),
        _each(routers, _bias),
        _each(routers, _groups),
        _each(routers, lambda r: _number(r.output_factor)),
        _each(routers, _shared),
        _each(routers, lambda r: r.logits),
        _each(in_half, _arithmetic),
        _each(in_half, lambda r: _short(r.arithmetic.weights if r.arithmetic else None)),
        _each(in_half, lambda r: _short(r.selection_bias.dtype) if r.selection_bias else NOTHING),
    ]


def facts(routers: list[Router]) -> dict[str, str]:
    """The rule of these routers, in the words of the table."""
    kinds = {"score": _score, "weights": _norm, "bias": _bias, "groups": _groups, "shared": _shared}
    return {name: _each(routers, fact) for name, fact in kinds.items()}


def _each(routers: list[Router], fact: Callable[[Router], str]) -> str:
    """The fact of every router, once where they agree."""
    return " + ".join(dict.fromkeys(fact(router) for router in routers))


def _experts(router: Router) -> str:
    extra = router.score_columns - router.experts
    return str(router.experts) + (f" and {extra} without weights" if extra else "")


def _score(router: Router) -> str:
    return router.score_function or "none fits"


def _groups(router: Router) -> str:
    found = router.groups
    return f"{found.kept} of {found.count} by {found.score}" if found else NOTHING


def _shared(router: Router) -> str:
    return (router.shared_experts or NOTHING) + (", gated" if router.shared_gate else "")


def _norm(router: Router) -> str:
    if router.score_function is None:
        return "no known rule"
    rule = {True: "renormalised", False: "as scored", None: "ratios only"}[router.renormalised]
    return rule + (f", times {router.expert_scale}" if router.expert_scale else "")


def _bias(router: Router) -> str:
    if router.kind == "hash":
        return "by a table of ids"
    if router.selection_bias is None:
        return NOTHING
    return router.selection_bias.name.rpartition(".")[2] + (" on logits" if router.bias_on == "logits" else "")


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _arithmetic(router: Router) -> str:
    seen = router.arithmetic
    parts = (None, None, None) if seen is None else (seen.product, seen.score, seen.selection)
    return " / ".join(_short(part) for part in parts)


def _short(name: str | None) -> str:
    return "?" if name is None else {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(name, name)
