"""Codes: one matrix as a quantised checkpoint stores it, and what is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class UnreadableError(ValueError):
    """A matrix whose numbers cannot be told from its codes; the message says why."""


@dataclass(frozen=True, eq=False)
class Codes:
    """One matrix of a module in a quantised format.

    ``parts`` are the tensors of the module by the rest of their names (``weight``, ``weight.absmax``, ``qzeros``),
    ``module`` its path in the files, ``said`` what the quantisation config says about it (``declared.said_of``), and
    ``columns`` the width of its input where that is known. ``used`` grows by the name of every part that is asked for:
    what nobody asks for belongs to another format.
    """

    parts: Mapping[str, Tensor]
    module: str
    said: Mapping[str, Any]
    columns: int | None = None
    used: set[str] = field(default_factory=set)

    def take(self, name: str, *dtypes: torch.dtype, dims: tuple[int, ...] = ()) -> Tensor | None:
        """The part of that name, None where there is none.

        Raises:
            UnreadableError: it is empty, of another dtype, or does not have one of the numbers of dimensions.

        """
        self.used.add(name)
        part = self.parts.get(name)
        if part is None:
            return None
        if not part.numel():
            raise UnreadableError(f"{name} is {list(part.shape)}, which holds nothing")
        if dtypes and part.dtype not in dtypes:
            raise UnreadableError(f"{name} is stored as {short(part.dtype)}, which this format does not do")
        if dims and part.ndim not in dims:
            raise UnreadableError(f"{name} is {list(part.shape)}, which has {part.ndim} dimensions")
        return part

    def need(self, name: str, *dtypes: torch.dtype, dims: tuple[int, ...] = ()) -> Tensor:
        """The part of that name.

        Raises:
            UnreadableError: it is not there, or not as in ``take``.

        """
        part = self.take(name, *dtypes, dims=dims)
        if part is None:
            raise UnreadableError(f"{self._codes()} is stored as codes, and {name} is missing")
        return part

    def _codes(self) -> str:
        return next((name for name in ("weight", "weight_packed", "qweight") if name in self.parts), "it")

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number that the quantisation config says.

        Raises:
            UnreadableError: it does not, and there is no default.

        """
        value = self.said.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UnreadableError(f"the quantisation config of {self.module} does not say its {name}")
        return value

    def check_columns(self, columns: int, how: str) -> None:
        """Hold the unpacked width against that of the input, where the format does not store it.

        Raises:
            UnreadableError: they differ.

        """
        if self.columns is not None and columns != self.columns:
            raise UnreadableError(f"{how} unpacks to {columns} columns, and the hidden size is {self.columns}")


@dataclass(frozen=True, eq=False)
class Restored:
    """``matrix`` [rows, columns] float32; ``bits`` that each of its numbers was stored in, and how, in ``words``."""

    matrix: Tensor
    bits: int
    words: str


def short(dtype: torch.dtype) -> str:
    """Name of a dtype without its module."""
    return str(dtype).removeprefix("torch.")
