"""The tensors of the routed experts, one by one, without copying any of them."""

from collections.abc import Iterator

from torch import Tensor, nn

from moeprobe.checkpoint.spread import is_spread
from moeprobe.routers.find import Site
from moeprobe.routers.wrapped import adapted_inside, has_wrappers, inner, named_parameters

_NOT_BY_EXPERT = "the experts' tensors are not laid out by expert"
_ADAPTED = "an adapter changes the experts' weights; merge it (merge_and_unload) to have them judged"
_PLAIN = {"torch.float64", "torch.float32", "torch.float16", "torch.bfloat16"}


def expert_tensors(site: Site, count: int) -> dict[str, list[Tensor]]:
    """Name -> one view for each of ``count`` experts.

    Experts are stacked (every parameter has them as its first dimension, as in transformers 5) or stand in a
    list of modules.

    Raises:
        ValueError: the experts cannot be told apart by their tensors; the message says why.

    """
    parameters = _plain_parameters(site)
    assert site.experts is not None
    experts = inner(site.experts)
    if any(p.is_meta for p in parameters.values()):
        raise ValueError("the experts are not in memory")
    if is_spread(site.experts):
        # To gather a layer of a large model could take more memory than a process has.
        raise ValueError("the experts are spread over several processes")
    modules = _module_list(experts, count)
    if modules is not None:
        each = [dict(named_parameters(module)) for module in modules]
        shapes = [{name: p.shape for name, p in one.items()} for one in each]
        if shapes[0] and all(shape == shapes[0] for shape in shapes):
            return {name: [one[name].detach() for one in each] for name in each[0]}
    elif _stacked(parameters, count):
        return {name: list(p.detach().unbind(0)) for name, p in parameters.items()}
    raise ValueError(_NOT_BY_EXPERT)


def each_expert(site: Site, count: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of one expert after the other; raises as ``expert_tensors`` does."""
    tensors = expert_tensors(site, count)
    return ({name: views[expert] for name, views in tensors.items()} for expert in range(count))


def stacked_names(site: Site, count: int) -> list[str]:
    """Names of the stacked tensors of ``count`` experts, in memory or not.

    Raises:
        ValueError: the experts cannot be told apart by their tensors; the message is that of ``expert_tensors``.

    """
    parameters = _plain_parameters(site)
    if not _stacked(parameters, count):
        raise ValueError(_NOT_BY_EXPERT)
    return list(parameters)


def _plain_parameters(site: Site) -> dict[str, nn.Parameter]:
    if site.experts is None:
        raise ValueError("there is no experts module beside the router")
    if has_wrappers(site.experts) and adapted_inside(site.experts):
        raise ValueError(_ADAPTED)
    parameters = dict(named_parameters(site.experts))
    if not parameters:
        raise ValueError("the experts hold no parameters")
    if not all(map(is_plain, parameters.values())):
        raise ValueError("the experts are quantised")
    return parameters


def is_plain(tensor: Tensor) -> bool:
    """Whether the entries are the numbers that they say."""
    return str(tensor.dtype) in _PLAIN


def _stacked(parameters: dict[str, nn.Parameter], count: int) -> bool:
    return all(p.ndim >= 2 and p.shape[0] == count for p in parameters.values())


def _module_list(experts: nn.Module, count: int) -> list[nn.Module] | None:
    for module in (experts, *map(inner, experts.children())):
        if isinstance(module, nn.ModuleList) and len(module) >= count:
            return list(module)[:count]
    return None
