"""Find the tensors of a router: gate matrix, logit bias, selection bias, hash table, the norm before it.

They are found by shape and verified by what they compute; names only narrow the search.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeprobe.checkpoint.spread import whole
from moeprobe.routers.adapted import acting_matrix
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site
from moeprobe.routers.wrapped import by_path, has_wrappers, inner, is_adapted

Named = tuple[str, Tensor]
"""A tensor and its name inside its module."""


def own_tensors(module: nn.Module, recurse: bool = True) -> Iterator[Named]:
    """Parameters and buffers that hold numbers.

    A tensor that accelerate keeps elsewhere between forward passes stands on the meta device; its numbers are
    taken from accelerate's map of weights, if it has one, else the tensor is left out. Behind wrappers they are those
    of the module that runs; a matrix to which an adapter adds is the one that acts, and is left out if it is not known.
    """
    if has_wrappers(module):
        yield from _behind_wrappers(module, recurse)
        return
    yield from _plain(module, recurse)


def _plain(module: nn.Module, recurse: bool) -> Iterator[Named]:
    for name, tensor in [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]:
        if tensor.device.type != "meta":
            yield name, whole(tensor.detach())
            continue
        holder = module.get_submodule(name.rpartition(".")[0])
        kept = getattr(getattr(holder, "_hf_hook", None), "weights_map", None)
        if kept is not None:
            yield name, kept[name.rpartition(".")[2]].detach()


def _behind_wrappers(module: nn.Module, recurse: bool) -> Iterator[Named]:
    for path, place in by_path(module).items() if recurse else [("", module)]:
        adapted = is_adapted(place)
        for name, tensor in _plain(inner(place), recurse=False):
            if not (adapted and tensor.is_floating_point() and tensor.ndim == 2):
                yield f"{path}.{name}" if path else name, tensor
        if adapted and (matrix := acting_matrix(place)) is not None:
            yield f"{path}.weight" if path else "weight", matrix


def gate_product(router: nn.Module, inputs: Tensor, logits: Tensor | None) -> tuple[Tensor | None, Named | None]:
    """The gate matrix [columns, hidden] and logit bias [columns] whose product with the input gives the logits."""
    own = [(name, tensor.to(inputs.device)) for name, tensor in own_tensors(router) if tensor.is_floating_point()]
    matrices = [tensor for _, tensor in own if tensor.ndim == 2 and tensor.shape[1] == inputs.shape[1]]
    if logits is None:
        return (matrices[0], None) if matrices else (None, None)
    # Inkling's gate has rows for its shared experts too, behind those of the routed ones.
    for matrix in (m[: logits.shape[1]] for m in matrices if m.shape[0] >= logits.shape[1]):
        vectors: list[Named | None] = [None, *(entry for entry in own if entry[1].shape == (logits.shape[1],))]
        trials = []
        for vector in vectors:
            again = F.linear(inputs.float(), matrix.float(), None if vector is None else vector[1].float())
            seen = torch.isfinite(logits).all(dim=-1) & torch.isfinite(again).all(dim=-1)
            if not bool(seen.any()):
                return matrix, None
            gap = (again - logits.float())[seen].square().mean().sqrt()
            scale = logits.float()[seen].square().mean().sqrt()
            trials.append((float(gap), float(scale), vector))
        # A selection bias of the same shape that is tiny beside the logits fits them no worse: a logit bias must
        # explain most of what the bare product leaves open.
        bare = trials[0]
        best = min(trials, key=lambda trial: trial[0])
        gap_, scale_, vector_ = best if best[0] < 0.5 * bare[0] else bare
        if gap_ <= 0.02 * scale_ + 1e-6:
            return matrix, vector_
        factor = _common_factor(F.linear(inputs.float(), matrix.float()), logits.float())
        if factor is not None:
            return matrix.float() * factor, None
    return None, None


def _common_factor(product: Tensor, logits: Tensor) -> float | None:
    """Factor between the bare product and the logits, both [rows, columns]; None where there is no single one."""
    seen = torch.isfinite(product).all(dim=-1) & torch.isfinite(logits).all(dim=-1)
    one, other = product[seen].double(), logits[seen].double()
    size = float(one.square().sum())
    factor = float((one * other).sum()) / size if size > 0 else 0.0
    gap = float((other - factor * one).norm())
    return factor if factor > 0 and gap <= 1e-3 * float(other.norm()) else None


def bias_candidates(site: Site, logits: Tensor | None, logit_bias: Named | None) -> Iterator[Named]:
    """Tensors with one value per score column that are no weight and not the logit bias."""
    width = None if logits is None else logits.shape[-1]
    for module in (site.router, site.block):
        if module is None:
            continue
        for name, tensor in own_tensors(module, recurse=module is site.router):
            # Ernie keeps its bias as [1, columns].
            fits = tensor.is_floating_point() and tensor.shape[-1:] == (width,) and tensor.numel() == width
            if fits and "bias" in name and (logit_bias is None or name != logit_bias[0]):
                yield name, tensor.reshape(-1)


def expert_scales(site: Site, count: int) -> Iterator[Named]:
    """Vectors of the router with one value per expert that may multiply the routing weights."""
    for name, tensor in own_tensors(site.router):
        if tensor.shape == (count,) and tensor.is_floating_point() and "scale" in name:
            yield name, tensor


def named(site: Site, name: str) -> Named | None:
    """The router's tensor of this name."""
    return next((entry for entry in own_tensors(site.router) if entry[0] == name), None)


def hash_table(site: Site, experts: Tensor) -> Tensor | None:
    """The integer table [vocabulary, k] of a hash router."""
    tables = (tensor for _, tensor in own_tensors(site.router) if not tensor.is_floating_point())
    return next((table for table in tables if table.ndim == 2 and table.shape[1] == experts.shape[1]), None)


def norm_weight(site: Site, call: RouterCall) -> Tensor | None:
    """Weight of the RMS norm right before the block, if its output really is weight * x / rms(x)."""
    if call.norm_inputs is None or call.norm_output is None or call.norm_path is None:
        return None
    norm = next(module for path, module in site.norms if path == call.norm_path)
    weight = next((tensor for name, tensor in own_tensors(norm) if name == "weight"), None)
    if weight is None or weight.shape != call.norm_inputs.shape[-1:]:
        return None
    x, out = call.norm_inputs[:64].double(), call.norm_output[:64].double()
    unit = x / x.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-30)
    for gamma in (weight.to(x.device).double(), 1 + weight.to(x.device).double()):
        # The epsilon of the norm only shrinks the output, so the bound stays a bound.
        if bool(torch.isfinite(out).all()) and float((out - gamma * unit).norm() / out.norm().clamp_min(1e-30)) < 0.02:
            return gamma.float()
    return None
