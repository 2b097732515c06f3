"""Reference: the rule that transformers' own router class follows, measured on random numbers.

Much of a rule stands in code and in no config: which score function, whether the weights are divided by their sum
even if nobody asks for it. It is asked of the code itself: the class is built from the model's config, given random
weights and a random input, and its rule is fitted as every router's is.
"""

import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from moeprobe.findings.router import Declared, Reference
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site
from moeprobe.routers.infer import Shown, infer
from moeprobe.routers.pristine import pristine_class
from moeprobe.routers.routing import read_output, rows
from moeprobe.routers.tensors import hash_table
from moeprobe.routers.wrapped import inner

_SPREAD = 1.5
"""Standard deviation of the random logits: scores far apart, none at the edge of its range."""
_BIAS = 0.1
"""Standard deviation of a random selection bias: it moves choices and outweighs nobody."""


def reference_rule(site: Site, call: RouterCall, config: Any) -> Reference | None:
    """What transformers' class does at this place; None where there is no such class, or its rule cannot be told.

    Args:
        site: where the router stands.
        call: one call of it; the reference is called in the same way, with random numbers for the hidden states.
        config: the model's config.

    """
    router = inner(site.router)
    if config is None or call.inputs is None or (site.reader is not None and site.reader.is_block):
        return None
    known = pristine_class(router, config)
    if known is None:
        return None
    generator = torch.Generator().manual_seed(0)
    twin = _built(known, router, config, site.layer)
    if twin is None:
        return None
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            _randomise(twin, router, generator)
            args, kwargs = _random_arguments(call, generator)
            for number, given in enumerate(one for one in [*args, *kwargs.values()] if _is_bias(one)):
                # A bias that the block hands on is looked for among the router's own tensors.
                twin.register_buffer(f"given_bias_{number}", given)
            output = twin(*args, **kwargs)
            return _rule(replace(site, router=twin, block=None), call, output, (args, kwargs), config)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError):
        # A class that wants something else than what ran was given is no reference for it.
        return None


def _rule(site: Site, call: RouterCall, output: Any, given: tuple[Any, Any], config: Any) -> Reference | None:
    assert call.inputs is not None
    total = call.inputs.shape[0]
    if site.reader is not None:
        seen = site.reader.read(site.router, *given, output)
    else:
        seen = read_output(output, site.logits_index, total)
    if seen.logits is None or seen.experts is None or seen.weights is None:
        return None
    hashed = hash_table(site, rows(seen.experts)) is not None
    shown = Shown(rows(seen.logits), rows(seen.experts).long(), rows(seen.weights), torch.float32, hashed)
    rule = infer(site, shown, Declared(), config, None)
    if rule.fit is None or rule.scale is not None or rule.fit.biased:
        return None
    return Reference(
        name=type(site.router).__name__,
        explaining=list(rule.fit.explaining),
        renormalised=rule.fit.renormalised,
        # Its late digits hang on the random numbers, and these on the size of the batch.
        scaling_factor=None if rule.fit.factor is None else float(f"{rule.fit.factor:.4g}"),
        selection_agreement=None if rule.selection is None else round(rule.selection.agreement, 2),
        biased_choice=rule.selection is not None and rule.selection.biased,
    )


def _built(known: type[nn.Module], router: nn.Module, config: Any, layer: int | None) -> nn.Module | None:
    """The class, from the part of the config that gives it tensors of the shapes that the router has."""
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(router)}
    for part in _parts(config):
        try:
            asked = list(inspect.signature(known.__init__).parameters)[1:]
            extra = {"layer_idx": layer} if "layer_idx" in asked else {}
            with torch.random.fork_rng(devices=[]):
                twin = known(part, **extra).float().eval()
        except Exception:
            # A part of the config that is of another module lacks whatever this one asks for.
            continue
        own = {name: tuple(tensor.shape) for name, tensor in _tensors(twin)}
        common = own.keys() & shapes.keys()
        if own and (not common or all(own[name] == shapes[name] for name in common)):
            return twin
    return None


def _parts(config: Any) -> Iterator[Any]:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    yield text
    if config is not text:
        yield config
    for name in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, name, None)
        if part is not None and part is not text:
            yield part


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _randomise(twin: nn.Module, router: nn.Module, generator: torch.Generator) -> None:
    """Random matrices and biases; whole numbers (a table) are those of the router, gains stay as they begin."""
    theirs = dict(_tensors(router))
    for name, tensor in _tensors(twin):
        if not tensor.is_floating_point():
            if name in theirs and theirs[name].shape == tensor.shape:
                tensor.copy_(theirs[name])
        elif tensor.ndim >= 2:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * _SPREAD / math.sqrt(tensor.shape[-1]))
        elif "bias" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * _BIAS)


def _random_arguments(call: RouterCall, generator: torch.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call on the processor, random numbers for hidden states and biases, all else as it was."""
    assert call.inputs is not None
    width = call.inputs.shape[-1]

    def drawn(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.copy(value)
        if not value.is_floating_point():
            return value.detach().cpu()
        if _is_bias(value):
            return torch.randn(value.shape, generator=generator) * _BIAS
        if value.shape[-1] == width:
            return torch.randn(value.shape, generator=generator)
        return value.detach().cpu().float()

    return tuple(drawn(value) for value in call.args), {name: drawn(value) for name, value in call.kwargs.items()}


def _is_bias(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 1
