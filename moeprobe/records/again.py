"""Read the experts of one site once more, wherever they are: in memory, or on the disk after a streamed run."""

from collections.abc import Iterator

from torch import Tensor

from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.routers.experts import each_expert, stacked_names
from moeprobe.routers.find import Site
from moeprobe.routers.layout import layer_of_path


def read_again(stream: LayerStream | None, site: Site, count: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of one expert after the other; each is valid until the next.

    Args:
        stream: the model's layers, if they are on the disk.
        site: whose experts are read.
        count: how many there are.

    Raises:
        CheckpointError: they cannot be read.
        ValueError: they cannot be told apart.

    """
    if stream is None:
        yield from each_expert(site, count)
        return
    paths = [path for path in stream.experts if stream.model.get_submodule(path) is site.experts]
    if paths:
        names = stacked_names(site, count)
        for expert in range(count):
            tensors = stream.experts[paths[0]].read(expert)
            yield {name: tensors[name][0] for name in names}
        return
    layer = layer_of_path(stream.layout, site.path)
    stream.enter(layer)
    try:
        yield from each_expert(site, count)
    finally:
        stream.leave(layer)
