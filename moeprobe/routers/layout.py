"""Layout: where a model can be cut into layers and experts, read off the places of its routers."""

from collections.abc import Iterable, Iterator

from torch import nn

from moeprobe.checkpoint.streamed import Layout
from moeprobe.errors import StreamError
from moeprobe.routers.find import Site, find_sites


def layout_of(model: nn.Module) -> Layout:
    """The decoder layers of ``model``: the entries of the lists of modules that hold its routers.

    The experts of a layer can be read one at a time where transformers lets one replace how they are computed.

    Raises:
        StreamError: a router stands outside of such a list, or the model has two lists of layers.

    """
    name = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise StreamError(f"{name} cannot be streamed: an encoder-decoder has two stacks of layers.")
    sites = find_sites(model)
    lists: list[str] = []
    for site in sites:
        found = _layer_list(model, site.path)
        if found is None:
            raise StreamError(f"{name} cannot be streamed: its router {site.path} stands in no list of decoder layers.")
        if found not in lists:
            lists.append(found)
    if len(lists) != 1:
        raise StreamError(f"{name} cannot be streamed: its routers stand in {len(lists)} lists of layers, not in one.")
    layers = [f"{lists[0]}.{index}" for index in range(len(_entries(model, lists[0])))]
    experts = {path: count for site in sites for path, count in _single_experts(model, site)}
    return Layout(layers, frozenset(_kept(model, sites)), experts)


def layer_of_path(layout: Layout, path: str) -> str:
    """The decoder layer in which a module stands."""
    return next(layer for layer in layout.layers if path.startswith(f"{layer}."))


def _entries(model: nn.Module, path: str) -> nn.ModuleList:
    found = model.get_submodule(path)
    assert isinstance(found, nn.ModuleList)
    return found


def _layer_list(model: nn.Module, path: str) -> str | None:
    """The outermost list of modules on the way to ``path``."""
    parts = path.split(".")
    paths = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((outer for outer in paths if isinstance(model.get_submodule(outer), nn.ModuleList)), None)


def _single_experts(model: nn.Module, site: Site) -> Iterator[tuple[str, int]]:
    """Path and number of the experts, if transformers dispatches how they are computed and all is stacked by expert."""
    experts = site.experts
    # Set by transformers' decorator on every class whose computation can be replaced.
    if experts is None or not hasattr(experts, "_is_expert_parallel"):
        return
    count = getattr(experts, "num_experts", None)
    own = [*experts.named_parameters(recurse=False), *experts.named_buffers(recurse=False)]
    if isinstance(count, int) and own and all(tensor.ndim and tensor.shape[0] == count for _, tensor in own):
        yield next(path for path, module in model.named_modules() if module is experts), count


def _kept(model: nn.Module, sites: Iterable[Site]) -> Iterator[str]:
    """Paths of the modules that make up the routers, without the experts where the two are one module."""
    paths = {module: path for path, module in model.named_modules()}
    for site in sites:
        others = {
            inner
            for module in (site.experts, site.shared, *site.expert_modules)
            if module is not None and module is not site.router
            for inner in module.modules()
        }
        for inner in site.router.modules():
            if inner not in others:
                yield paths[inner]
        if site.block is not None:
            yield paths[site.block]
