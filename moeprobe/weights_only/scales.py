"""Scales that some layers lack: the codes of a quantised tensor mean nothing without all that its siblings have."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from moeprobe.checkpoint.headers import TensorHeader
from moeprobe.checkpoint.quantised.naming import wholes
from moeprobe.errors import IncompleteError
from moeprobe.weights_only.required import OF_EXPERTS, Files

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_CODES = re.compile(r"^(U8|I8|I4|U4|F4|F6|F8|I32|U32)")


def refuse_unscaled(files: Files, names: Collection[str]) -> None:
    """Do nothing if the quantised experts of all layers are made of the same parts.

    Layers that are not quantised at all are no fault: the first and last ones are often spared. Gates are read with
    their scales, or said to be unreadable (``checkpoint.quantised``).

    Args:
        files: what the files say.
        names: of the stored tensors; one expert stands for its siblings.

    Raises:
        IncompleteError: one lacks a part that the others have.

    """
    held = set(names)
    parts: dict[str, set[str]] = defaultdict(set)
    for name in filter(OF_EXPERTS.search, names):
        found = list(wholes(name))
        # A scale beside a weight of its own name is that one's, else whatever the name says first.
        whole, stem = next((one for one in found if one[0] in held), found[0] if found else ("", ""))
        if whole:
            parts[whole].add(name[len(stem) :])
    alike: dict[str, list[str]] = defaultdict(list)
    for whole in {*parts, *(name for name in filter(OF_EXPERTS.search, names) if _coded(name, files.headers))}:
        alike[_NUMBER.sub("*", whole)].append(whole)
    for siblings in alike.values():
        counts = Counter(frozenset(parts[whole]) for whole in siblings)
        usual = max(
            (kind for kind in counts if kind), key=lambda kind: (counts[kind], len(kind)), default=frozenset[str]()
        )
        for whole in sorted(siblings):
            lost = sorted(usual - parts[whole])
            half = bool(parts[whole]) and parts[whole] < usual
            if lost and (half or counts[usual] > counts[frozenset(parts[whole])]):
                raise IncompleteError(
                    f"{whole} of {files.source} is quantised and has no {lost[0]}, which {counts[usual]} tensors of "
                    "the same name in other layers have: it was left behind by a quantiser or a conversion; quantise "
                    "the model again, or get the checkpoint again."
                )


def _coded(name: str, headers: Mapping[str, TensorHeader]) -> bool:
    return name in headers and not list(wholes(name)) and _CODES.match(headers[name].dtype) is not None
