"""A YAML file as plain data that still knows on which line every key stands.

PyYAML keeps the last of two equal keys and says nothing; here they are refused, since one of them was meant to be
something else. Tags that would make Python objects are refused by PyYAML's safe loader.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moeprobe.errors import OptionError
from moeprobe.legible import is_legible
from moeprobe.regular_file import read_regular

Place = tuple[str | int, ...]
"""Keys and list positions from the top of the file, as in pydantic's ``loc``."""

_DEEPEST = 4  # no recipe is deeper, and aliases of aliases would otherwise grow without end
_MOST_BYTES, _MOST_ENTRIES = 1 << 20, 100_000  # far beyond any recipe


@dataclass(frozen=True)
class YamlSource:
    """What one file holds, and where. ``lines`` maps places to line numbers, counted from 1."""

    path: Path
    data: Any
    lines: dict[Place, int]

    def where(self, place: Sequence[str | int]) -> str:
        """``file.yaml, line 3``: the line of the place, or of the nearest place around it that has one."""
        for end in range(len(place), -1, -1):
            if (line := self.lines.get(tuple(place[:end]))) is not None:
                return f"{self.path}, line {line}"
        return str(self.path)


def read_yaml(path: Path) -> YamlSource:
    """Read one YAML document.

    Raises:
        OptionError: it cannot be read, is not valid YAML, or names a key twice.

    """
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise OptionError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    try:
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _entries(node, {}) > _MOST_ENTRIES:
            raise ValueError(f"it unfolds to more than {_MOST_ENTRIES:,} entries, which no recipe needs")
        data = yaml.safe_load(text)
    except MemoryError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever a wrong value makes them stumble over
        raise OptionError(f"The recipe {path} is not valid YAML: {_why(error)}.") from error
    lines: dict[Place, int] = {}
    if node is not None:
        _note_lines(node, (), lines, path)
    return YamlSource(path, data, lines)


def _entries(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Entries of a node with all that its aliases and merges repeat, each node looked at once.

    Raises:
        ValueError: a node holds itself, or a text that is none.

    """
    if id(node) in known:
        if (count := known[id(node)]) is None:
            raise ValueError(f"an alias in line {node.start_mark.line + 1} refers to what it stands in")
        return count
    known[id(node)] = None
    count = 1
    if isinstance(node, yaml.ScalarNode):
        if not is_legible(str(node.value)):
            raise ValueError(f"line {node.start_mark.line + 1} holds half of a surrogate pair, which is no character")
    else:
        for item in node.value:
            count += sum(_entries(one, known) for one in (item if isinstance(item, tuple) else (item,)))
    known[id(node)] = count
    return count


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    if "digits" in str(error):
        return "it holds a number of more than 4,300 digits"
    if not isinstance(error, yaml.YAMLError | ValueError):
        return "a value does not fit the tag before it"
    return " ".join(str(error).split())[:300]


def _note_lines(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> None:
    if len(place) > _DEEPEST:
        return
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _note_lines(item, (*place, position), lines, path)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                raise OptionError(
                    f"{path}, line {line}: the key {name!r} stands there for the second time (first in line "
                    f"{seen[name]}); keep one of them."
                )
            seen[name] = line
            _note_lines(value, (*place, name), lines, path)
            lines[(*place, name)] = line
