"""Arrangement: which tensors of an expert meet its input, and along which dimension the hidden size lies.

Numbers alone cannot tell where both dimensions are equal: gpt-oss keeps [hidden, 2 x intermediate] with
hidden = 2 x intermediate. So what the experts module says comes first, then what its modules are, then the matrix on
the way back, which has the same orientation and another shape; what is left open is not guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Size, nn

from moeprobe.routers.find import Site

_INPUT = ("gate", "up", "w1", "w3", "input", "fc1")
_OUTPUT = ("down", "output", "w2", "fc2")
_ACTIVATED = ("gate", "w1", "input")
"""In the name of the matrix behind the activation, where an expert has two."""
_SECOND = ("up", "input", "w13")
"""In the name of such a matrix: the other one lies in the same tensor."""

Shapes = Mapping[str, tuple[int, ...] | Size]


@dataclass(frozen=True)
class Arrangement:
    """What is known of the experts' tensors besides their shapes.

    ``transposed``: matrices are kept as [in, out] and not as [out, in]; None where nobody says. ``interleaved``: in a
    tensor that holds gate and up matrix their neurons take turns.
    """

    transposed: bool | None = None
    interleaved: bool = False


@dataclass(frozen=True)
class Inputs:
    """How an expert's input matrices lie: name -> the dimension of the hidden size (0 or 1), and those behind the
    activation: name -> the neurons of them to take (a slice). In ``paired`` ones the neurons of two matrices take
    turns. ``reason`` says why there are none.
    """

    hidden: dict[str, int]
    activated: dict[str, slice]
    paired: frozenset[str] = frozenset()
    reason: str = ""


def arrangement(site: Site) -> Arrangement:
    """What the experts of a site say of themselves: transformers' own attributes, or linear layers."""
    experts = site.experts
    said = getattr(experts, "is_transposed", None)
    transposed = said if isinstance(said, bool) else None
    if transposed is None and experts is not None:
        owners = [module for module in experts.modules() if any(p.ndim > 1 for p in module.parameters(recurse=False))]
        if owners and all(isinstance(module, nn.Linear) for module in owners):
            transposed = False
    return Arrangement(transposed, getattr(experts, "is_concatenated", True) is False)


def find_inputs(shapes: Shapes, hidden: int, known: Arrangement) -> Inputs:
    """How the input matrices of one expert lie.

    Args:
        shapes: name -> shape of every tensor of one expert.
        hidden: columns of the gate.
        known: what the module says.

    """
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    outputs = [shape for name, shape in matrices.items() if _has(name, _OUTPUT)]
    inputs = {n: s for n, s in matrices.items() if _has(n, _INPUT) and not _has(n, _OUTPUT)}
    if not inputs:
        return Inputs({}, {}, reason="no input matrix of the experts is recognised by its name")
    fitting = {name: shape for name, shape in inputs.items() if hidden in shape}
    if not fitting:
        return Inputs(
            {}, {}, reason=f"no input matrix of the experts has a dimension of {hidden}, the gate's hidden size"
        )
    found = {name: _dimension(shape, hidden, known, outputs) for name, shape in fitting.items()}
    if any(dimension is None for dimension in found.values()):
        return Inputs(
            {},
            {},
            reason=f"both dimensions of the experts' matrices are {hidden}, and nothing says which one their input is",
        )
    places = {name: place for name, place in found.items() if place is not None}
    paired = {n for n in places if known.interleaved and _fused(n) and fitting[n][1 - places[n]] % 2 == 0}
    return Inputs(places, _activated(places, fitting, paired), frozenset(paired))


def _dimension(
    shape: tuple[int, ...], hidden: int, known: Arrangement, outputs: Sequence[tuple[int, ...] | Size]
) -> int | None:
    """Dimension 0 or 1 of the hidden size; None where it cannot be told."""
    if shape[0] != shape[1]:
        return list(shape).index(hidden)
    if known.transposed is not None:
        return 0 if known.transposed else 1
    back = {list(one).index(hidden) for one in outputs if hidden in one and one[0] != one[1]}
    # Kept as [out, in], the way back has its output, the hidden size, first, and the way in has it last.
    return 1 - back.pop() if len(back) == 1 else None


def _activated(places: dict[str, int], shapes: Shapes, paired: set[str]) -> dict[str, slice]:
    gates = [name for name in places if _has(name, _ACTIVATED)]
    if not gates:
        return dict.fromkeys(places, slice(None))  # one matrix, and the activation behind it
    halves = {}
    for name in gates:
        first = slice(shapes[name][1 - places[name]] // 2)
        halves[name] = slice(None, None, 2) if name in paired else first if _fused(name) else slice(None)
    return halves


def _fused(name: str) -> bool:
    """Whether a tensor holds the matrix behind the activation and the one beside it."""
    return _has(name, _ACTIVATED) and _has(name, _SECOND)


def _has(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)
