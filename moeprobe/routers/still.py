"""Read a router without running it: what its tensors and the config say.

Used where nothing can run: the model's forward pass fails, or the router needs more than its input. A rule is
not measured then, only declared; what needs a measured rule is skipped by the detectors.
"""

import re
from typing import Any

from moeprobe.findings.router import Bias, Router
from moeprobe.routers.arithmetic import short
from moeprobe.routers.find import Site, expert_count
from moeprobe.routers.gate import Gate
from moeprobe.routers.read import read_declared
from moeprobe.routers.rule import SCORE_FUNCTIONS
from moeprobe.routers.tensors import own_tensors
from moeprobe.routers.wrapped import inner

SELECTION_BIAS = re.compile(r"correction_bias|expert_bias|balancing_bias")


def read_still(site: Site, config: Any, reason: str) -> Gate:
    """Tensors and declared facts of the router at ``site``.

    Args:
        site: where the router stands; its parameters must be loaded.
        config: the model's config.
        reason: why it was not run; it is kept as the reason for not being verified.

    Raises:
        ValueError: no gate matrix or no top-k can be made out; the message says so.
    """
    tensors = dict(own_tensors(site.router))
    weight = next((t for t in tensors.values() if t.ndim == 2 and t.is_floating_point()), None)
    table = next((t for t in tensors.values() if t.ndim == 2 and not t.is_floating_point()), None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    top_k = getattr(inner(site.router), "top_k", None) or getattr(text, "num_experts_per_tok", None)
    if table is not None:
        top_k = table.shape[1]
    if weight is None or not isinstance(top_k, int):
        raise ValueError("neither its gate matrix nor its top-k can be made out")
    bias = next((entry for entry in tensors.items() if SELECTION_BIAS.search(entry[0])), None)
    declared = read_declared(config)
    router = Router(
        path=site.path,
        layer=site.layer,
        kind="hash" if table is not None else "top-k",
        module=type(inner(site.router)).__name__,
        experts=expert_count(site, weight.shape[0]),
        score_columns=weight.shape[0],
        top_k=top_k,
        hidden_size=weight.shape[1],
        score_function=next((f for f in SCORE_FUNCTIONS if f == declared.score_function), None),
        selection_bias=None
        if bias is None
        else Bias(name=bias[0], dtype=short(bias[1].dtype) or "", stored_dtype=None, values=bias[1].double().tolist()),
        shared_experts=site.shared_name,
        shared_gate=site.shared_gate is not None,
        declared=declared,
        origin="declared" if site.declared else "found",
        reason=reason,
    )
    return Gate(router=router, weight=weight, selection_bias=None if bias is None else bias[1], table=table)
