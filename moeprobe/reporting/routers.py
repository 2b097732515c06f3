"""The facts of the routers as rows of a table; neighbours that agree share one."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from moeprobe.findings.router import Router
from moeprobe.reporting.depth import where
from moeprobe.reporting.document import used_columns
from moeprobe.reporting.text import code, plain
from moeprobe.reporting.words import MISSING, number

Writer = Callable[[str], str]


def router_rows(routers: Sequence[Router], name: Writer = code, word: Writer = plain) -> list[dict[str, str]]:
    """One row a run of equal neighbours: what was measured, beside it the config where it says otherwise.

    ``name`` and ``word`` write names and words from outside; marked names unless told.
    """
    rows = []
    for facts, alike in groupby(routers, key=lambda router: _facts(router, word)):
        together = where(((router.layer, router.path) for router in alike), name)
        rows.append({"layers": together.removeprefix("layers ").removeprefix("layer ")} | dict(facts))
    return used_columns(rows)


def _facts(router: Router, word: Writer) -> tuple[tuple[str, str], ...]:
    declared, groups = router.declared, router.groups
    spare = router.score_columns - router.experts
    top_k = str(router.top_k) if router.top_k else "an unknown number"
    chosen = f"{top_k} of {router.experts}" + (f" (and {spare} without parameters)" if spare > 0 else "")
    shared = "gated" if router.shared_gate else "yes"
    return (
        ("chosen", f"by table, {chosen}" if router.kind == "hash" else f"top {chosen}"),
        ("groups", f"best {groups.kept} of {groups.count} by {groups.score}" if groups else _declared_groups(router)),
        ("score function", _against(router.score_function, declared.score_function, word)),
        ("renormalised", _against(router.renormalised, declared.renormalised, word)),
        ("factor", _against(router.scaling_factor, declared.scaling_factor, word)),
        ("factor of each expert", word(router.expert_scale) if router.expert_scale else MISSING),
        ("factor on the output", number(router.output_factor)),
        ("gate stored in", _stored(router, word)),
        ("selection bias", _bias(router, word)),
        ("logit bias", word(router.logit_bias.dtype) if router.logit_bias else MISSING),
        ("shared experts", shared if router.shared_experts else MISSING),
        ("logits", MISSING if router.logits == "returned" else word(router.logits)),
        ("arithmetic", _arithmetic(router)),
        ("not verified", MISSING if router.verified else "yes"),
    )


def _stored(router: Router, word: Writer) -> str:
    return MISSING if router.stored is None else f"{router.stored.bits} bits: {word(router.stored.format)}"


def _bias(router: Router, word: Writer) -> str:
    if router.selection_bias is None:
        return _against(None, router.declared.selection_bias, word)
    return word(router.selection_bias.dtype) + (", on the logits" if router.bias_on == "logits" else "")


def _declared_groups(router: Router) -> str:
    """What the config says about groups, where a run did not show whether it is so."""
    declared = router.declared.groups
    if declared is None or router.selection_agreement is not None or router.kind == "hash":
        return MISSING
    return f"{MISSING} (declared: best {declared[1]} of {declared[0]})"


def _arithmetic(router: Router) -> str:
    """Dtypes of product / score / selection -> weights handed on, one name where all are the same."""
    seen = router.arithmetic
    if seen is None:
        return MISSING
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64", None: MISSING}
    product, score, selection, weights = (
        short.get(dtype, dtype or MISSING) for dtype in (seen.product, seen.score, seen.selection, seen.weights)
    )
    steps = {product, score, selection, weights}
    return product if len(steps) == 1 else f"{product}/{score}/{selection} to {weights}"


def bias_rows(routers: Sequence[Router], name: Writer = code) -> list[dict[str, str]]:
    """One row a router with a selection bias: offset (median), spread (max - min), dtypes. Only the spread decides."""
    rows = []
    for router in routers:
        bias = router.selection_bias
        if bias is not None and bias.values:
            values = sorted(bias.values)
            rows.append(
                {
                    "layer": str(router.layer) if router.layer is not None else name(router.path),
                    "bias": name(bias.name),
                    "offset": number(values[len(values) // 2]),
                    "spread": number(values[-1] - values[0]),
                    "dtype": name(bias.dtype),
                    "stored as": name(bias.stored_dtype) if bias.stored_dtype else MISSING,
                }
            )
    return rows


def _against(measured: float | str | bool | None, declared: float | str | bool | None, word: Writer) -> str:
    """Tell what was measured, and what the config declares where that is something else."""
    text = word(measured) if isinstance(measured, str) else number(measured)
    if declared is None or declared == measured or (measured is None and declared is False):
        return text
    fitted = isinstance(measured, float) and isinstance(declared, float | int)
    if fitted and math.isclose(float(measured or 0), float(declared or 0), rel_tol=1e-2):
        return text
    return f"{text} (declared: {word(declared) if isinstance(declared, str) else number(declared)})"
