"""Unread: what lies in a checkpoint and no model reads."""

from typing import Literal

from moeprobe.findings.plain import Plain


class Unread(Plain):
    """Tensors or files of one kind that are there and were not read.

    ``names`` are the first few, with ``*`` for the numbers in which they differ, ``count`` how many tensors or files
    there are. ``routing``: their names are those of routers, biases or adapters, and nothing explains why the model
    leaves them out. ``why`` says what leaves them unread.
    """

    kind: Literal["tensors", "files"]
    names: list[str]
    count: int
    routing: bool
    why: str

    def sentence(self) -> str:
        """``3 tensors (model.layers.*.mlp.gate.bias)``."""
        noun = self.kind if self.count != 1 else self.kind.removesuffix("s")
        more = ", ..." if self.count > len(self.names) and "*" not in "".join(self.names) else ""
        return f"{self.count:,} {noun} ({', '.join(self.names)}{more})"
