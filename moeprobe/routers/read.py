"""Read the facts of a router from one recorded call: measured, not recited."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moeprobe.findings.router import Arithmetic, Bias, Declared, Reference, Router
from moeprobe.routers.arithmetic import observe, short
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site, expert_count
from moeprobe.routers.gate import Gate
from moeprobe.routers.infer import Shown, group_sizes, infer, score_dtype
from moeprobe.routers.reference import reference_rule
from moeprobe.routers.released import released_norm
from moeprobe.routers.tensors import Named, gate_product, hash_table, norm_weight
from moeprobe.routers.wrapped import inner

_ROWS = 2048
"""Rows of the call that the fits look at: enough to tell rules apart, cheap at 384 experts."""


def read_gate(site: Site, call: RouterCall, config: Any, relative: Gate | None = None) -> Gate:
    """Facts and tensors of the router at ``site``.

    Args:
        site: where the router stands.
        call: one call of it.
        config: the model's config (or None); it gives the declared rule and the group sizes.
        relative: a router of the same class that was read before; its rule is taken where this one's own
            numbers cannot show a rule (all NaN, all equal).

    Raises:
        ValueError: the call does not show chosen experts, so there is nothing to read; the message says why.

    """
    used = call.used
    experts, weights = used.experts, used.weights
    if experts is None or weights is None or call.inputs is None:
        raise ValueError(f"its output ({_shape_of(call)}) does not show which experts were chosen with which weights")
    experts = experts[:_ROWS].long()
    declared = read_declared(config)
    if site.reader is not None and site.reader.normalises:
        declared = declared.model_copy(update={"renormalised": None})
    arithmetic = _observe(site, call, weights)
    inputs = call.inputs[:_ROWS]
    weight, logit_bias = gate_product(site.router, inputs, None if used.logits is None else used.logits[:_ROWS])
    logits = used.logits[:_ROWS] if used.logits is not None else None
    if logits is None and weight is not None:
        logits = F.linear(inputs.float(), weight.float(), None if logit_bias is None else logit_bias[1].float())
    table = hash_table(site, experts)
    shown = Shown(logits, experts, weights[:_ROWS], score_dtype(arithmetic), table is not None)
    rule = infer(site, shown, declared, config, logit_bias)
    if rule.fit is None and relative is not None and relative.router.score_function is not None:
        rule = rule.after(relative, site)
    fit, chosen, bias, scale = rule.fit, rule.selection, rule.bias, rule.scale
    columns = logits.shape[-1] if logits is not None else int(experts.max()) + 1
    router = Router(
        path=site.path,
        layer=site.layer,
        kind="hash" if table is not None else "top-k",
        module=type(inner(site.router)).__name__,
        experts=expert_count(site, columns),
        score_columns=columns,
        top_k=experts.shape[-1],
        hidden_size=inputs.shape[-1],
        score_function=fit.function if fit else None,
        renormalised=fit.renormalised if fit else None,
        scaling_factor=fit.factor if fit else None,
        output_factor=_output_factor(call),
        expert_scale=None if scale is None else scale[0],
        logits=_described(site, call),
        fit_error=None if fit is None or fit.error == float("inf") else fit.error,
        explaining=list(fit.explaining) if fit else [],
        biased_weights=fit is not None and fit.biased,
        selection_agreement=None if chosen is None else chosen.agreement,
        selection_bias=_bias_fact(bias),
        bias_on="logits" if chosen is not None and chosen.on_logits else "scores",
        logit_bias=_bias_fact(logit_bias),
        groups=chosen.groups if chosen and table is None else None,
        shared_experts=site.shared_name,
        shared_gate=site.shared_gate is not None,
        norm=call.norm_path,
        arithmetic=arithmetic,
        declared=declared,
        origin="declared" if site.declared else "found",
        reference=_reference(site, call, config, relative),
        choosing=list(rule.choosing),
    )
    return Gate(
        router=router,
        weight=weight,
        logit_bias=None if logit_bias is None else logit_bias[1],
        selection_bias=None if bias is None else bias[1],
        table=table,
        gamma=norm_weight(site, call),
        expert_scale=None if scale is None else scale[1],
    )


def _reference(site: Site, call: RouterCall, config: Any, relative: Gate | None) -> Reference | None:
    """The rule of transformers' class; that of a router of the same class that was read before is the same."""
    if relative is not None and relative.router.reference is not None:
        return relative.router.reference
    return reference_rule(site, call, config)


def read_declared(config: Any) -> Declared:
    """The routing rule that the config promises."""
    if config is None:
        return Declared()
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    function = getattr(text, "scoring_func", None)
    norm = getattr(text, "norm_topk_prob", None)
    factor = getattr(text, "routed_scaling_factor", None)
    return Declared(
        score_function=function if isinstance(function, str) else None,
        renormalised=norm if isinstance(norm, bool) else None,
        scaling_factor=float(factor) if isinstance(factor, int | float) and not isinstance(factor, bool) else None,
        groups=next((sizes for sizes in [group_sizes(text)] if sizes[0] > 1), None),
        released_norm=released_norm(text),
    )


def _described(site: Site, call: RouterCall) -> str:
    """What the recorded logits are."""
    if call.returned.logits is None:
        return "none"
    if call.behind:
        return "computed inside; the router returns probabilities"
    return "returned" if site.reader is None else site.reader.logits


def _observe(site: Site, call: RouterCall, weights: Tensor) -> Arithmetic | None:
    if site.reader is not None and site.reader.is_block:
        return _handed_on(call, weights)
    try:
        logits = call.returned.logits
        return observe(site.router, call.args, call.kwargs, weights, None if logits is None else logits.shape[-1])
    except (RuntimeError, TypeError, NotImplementedError):
        # Some kernels refuse a dispatch mode.
        return _handed_on(call, weights)


def _handed_on(call: RouterCall, weights: Tensor) -> Arithmetic:
    """All that is known of a router that cannot be run once more."""
    product = None if call.returned.logits is None else short(call.returned.logits.dtype)
    return Arithmetic(product=product, score=None, selection=None, weights=short(weights.dtype))


def _bias_fact(bias: Named | None) -> Bias | None:
    if bias is None:
        return None
    return Bias(name=bias[0], dtype=short(bias[1].dtype) or "", stored_dtype=None, values=bias[1].double().tolist())


def _output_factor(call: RouterCall) -> float | None:
    """Factor f in block output = f * routed + shared; None where the block does something else."""
    if call.block_output is None or call.routed is None or call.block_output.shape != call.routed.shape:
        return None
    shared = call.gated_shared
    routed = call.routed[:_ROWS].double()
    rest = call.block_output[:_ROWS].double() - (0 if shared is None else shared[:_ROWS].double())
    usable = torch.isfinite(routed).all(dim=-1) & torch.isfinite(rest).all(dim=-1)
    routed, rest = routed[usable], rest[usable]
    norm = float(routed.square().sum())
    if norm == 0:
        return None
    factor = float((rest * routed).sum()) / norm
    unexplained = float((rest - factor * routed).square().sum().sqrt()) / norm**0.5
    # Rounding of the sum in 16 bits leaves up to about 1 % where the shared output is the larger part.
    if unexplained > 0.05 * max(1.0, abs(factor)):
        return None
    return 1.0 if abs(factor - 1) < 0.01 else factor


def _shape_of(call: RouterCall) -> str:
    parts = [name for name in ("logits", "experts", "weights") if getattr(call.used, name) is not None]
    return "only " + " and ".join(parts) if parts else "no tensor that moeprobe knows"
