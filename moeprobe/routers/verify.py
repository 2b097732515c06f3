"""Verify one recorded call: what was executed is what the router decided."""

import torch
from torch import Tensor

from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site
from moeprobe.routers.routing import Routing

GONE_AROUND = "the experts module was never called: a fused kernel seems to go around it"


def verify(site: Site, call: RouterCall) -> tuple[bool, str]:
    """(verified, reason why not). A router that does not verify is reported as not checked, never guessed."""
    if call.router_calls != 1:
        return False, f"the router fired {call.router_calls} times in one pass through its block"
    if site.experts is None:
        return False, "there is no experts module beside the router to compare with"
    if misplaced(call):
        return False, "the experts executed other rows than the router chose"
    if call.equal:
        return True, ""
    if call.equal is False:
        return False, "the experts received something else than the router returned"
    if call.executed and misplaced(call) is not None:
        return True, ""
    if call.experts_calls == 0:
        return False, GONE_AROUND
    if call.returned.experts is None and call.given.experts is not None and call.given.weights is not None:
        # The router returns scores alone, and the block chooses: what the experts receive is all there is.
        return True, ""
    return False, "the arguments of the experts module do not show experts and weights"


def misplaced(call: RouterCall) -> int | None:
    """Rows that an expert executed beyond those that chose it; None where the experts were not seen one by one.

    Experts that all run the same number of rows are filled up to a capacity, which says nothing about the choice.
    """
    experts = call.used.experts if call.executed else None
    if experts is None:
        return None
    chosen = torch.bincount(experts[experts >= 0].long().cpu(), minlength=max(call.executed) + 1)
    ran = torch.zeros_like(chosen)
    for expert, count in call.executed.items():
        ran[expert] = count
    if bool((ran == ran[0]).all()) and bool((ran > chosen).any()) and bool((ran >= chosen).all()):
        return None
    return int((ran - chosen).clamp_min(0).sum())


def same_routing(given: Routing, returned: Routing) -> bool | None:
    """Whether the arguments of the experts are, bit for bit, what the router decided; None where either is not shown.

    Weights are compared where the experts receive them.
    """
    if given.experts is None or returned.experts is None or returned.weights is None:
        return None
    if not same_bits(given.experts, returned.experts):
        return False
    return given.weights is None or same_bits(given.weights, returned.weights)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN equal to NaN; the dtype of integers is free."""
    if first.shape != second.shape:
        return False
    if _same_memory(first, second):
        return True
    if first.is_floating_point() != second.is_floating_point():
        return False
    if not first.is_floating_point():
        return bool(torch.equal(first.long(), second.long().to(first.device)))
    if first.dtype != second.dtype:
        return False
    second = second.to(first.device)
    if torch.equal(first, second):
        return True
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def _same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of the same shape are one: nearly always what the router returned is handed on as it is."""
    if first.device.type == "meta" or first.device != second.device or first.dtype != second.dtype:
        return False
    return first.data_ptr() == second.data_ptr() and first.stride() == second.stride()
