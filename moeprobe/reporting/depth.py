"""Where a router stands: its name in tables and its place on the axis of the figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from moeprobe.findings.router import Router
from moeprobe.reporting.text import code
from moeprobe.reporting.words import plural, ranges


class Placed(Protocol):
    """What stands at one router."""

    @property
    def router(self) -> Router:
        """The router."""
        ...


@dataclass(frozen=True)
class Depth:
    """The routers in order: ``xs`` their layers (or places), ``hashed`` those of hash routers."""

    heading: str
    xs: tuple[int, ...]
    names: dict[str, str]
    hashed: tuple[int, ...]

    def x(self, router: str | None) -> int | None:
        """Position of the router with this path, None where it is not among them."""
        return next((x for x, path in zip(self.xs, self.names, strict=True) if path == router), None)


def depth(routers: Sequence[Placed]) -> Depth:
    """Give the axis of these routers: decoder layers where known and distinct, else the order."""
    layers = [one.router.layer for one in routers]
    numbers = [layer for layer in layers if layer is not None]
    plain_layers = len(set(numbers)) == len(routers)
    xs = tuple(numbers) if plain_layers else tuple(range(len(routers)))
    names = {
        one.router.path: str(x) if plain_layers else f"{x}: {code(one.router.path)}"
        for x, one in zip(xs, routers, strict=True)
    }
    hashed = tuple(x for x, one in zip(xs, routers, strict=True) if one.router.kind == "hash")
    return Depth("layer" if plain_layers else "router", xs, names, hashed)


def where(places: Iterable[tuple[int | None, str | None]], name: Callable[[str], str] = code) -> str:
    """Pairs of layer and router path in words: ``layers 3-7, 12``.

    A router without a layer, or with one that several have, is named by its path, which ``name`` writes (marked
    unless told); neither layer nor path means the whole model.
    """
    found = list(dict.fromkeys(places))
    numbers = [layer for layer, _ in found if layer is not None]
    if len(set(numbers)) < len(numbers):
        # Encoder and decoder, or both levels of a layer: a number alone does not say which.
        found = [(None, path) for _, path in found]
    layers = sorted({layer for layer, _ in found if layer is not None})
    paths = list(dict.fromkeys(path for layer, path in found if layer is None and path is not None))
    parts = [f"layer{'' if len(layers) == 1 else 's'} {ranges(layers)}"] if layers else []
    parts += [name(path) for path in paths[:6]]
    if len(paths) > 6:
        parts.append(plural(len(paths) - 6, "more router"))
    if (None, None) in found:
        parts.append("the whole model")
    return ", ".join(parts)
