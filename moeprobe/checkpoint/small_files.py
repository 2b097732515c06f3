"""Small files of a checkpoint: the JSON in it, looked at before transformers reads it again by itself."""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from moeprobe.errors import IncompleteError
from moeprobe.json_source import JsonError, parse_json
from moeprobe.regular_file import read_regular, refuse_irregular

_LFS_POINTER = b"version https://git-lfs"
_OPENED = {".json", ".safetensors", ".model", ".txt", ".tiktoken", ".jinja", ".py"}
"""Endings of what transformers opens in the folder of a model."""


def read_json(path: Path, *, unique: bool = False) -> Any:
    """A JSON file of a checkpoint; ``unique`` refuses a key that stands twice.

    Raises:
        IncompleteError: it is a git-lfs pointer, or its JSON cannot be used.
        OSError: it cannot be read, or is no regular file.
    """
    content = read_regular(path)
    if content.startswith(_LFS_POINTER):
        raise IncompleteError(f"{path} is a git-lfs pointer; run `git lfs pull` in that folder.")
    try:
        return parse_json(content, unique=unique)
    except JsonError as error:
        raise IncompleteError(f"{path} cannot be used: {error}; get it again.") from error


def refuse_unreadable(folder: Path, names: Collection[str]) -> None:
    """Do nothing if those of these JSON files that are there can be read.

    Raises:
        IncompleteError: one holds no JSON object that can be used.
        OSError: one cannot be read.
    """
    for name in names:
        if os.path.lexists(folder / name) and not isinstance(read_json(folder / name), dict):
            raise IncompleteError(f"{folder / name} is JSON, but no object as transformers writes it; get it again.")


def refuse_pipes(folder: Path) -> None:
    """Do nothing if nothing that transformers might open in this folder would keep it waiting for ever.

    Raises:
        OSError: there is a pipe, a socket or a device.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix not in _OPENED:
            continue
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # who reads it says what is wrong
        if not stat.S_ISDIR(mode):
            refuse_irregular(path)
