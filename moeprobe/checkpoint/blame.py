"""Find the field of config.json for which transformers refuses to make a model."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.quiet import quiet_transformers

Keys = tuple[str, ...]
"""Where a field stands: the objects around it, and its own name."""

_SECONDS = 10.0
"""How long fields are tried; a skeleton takes from 10 milliseconds to a second."""
_MOST = 3
"""More fields than these are not named: any of them may be the wrong one."""
_FIELD = re.compile(r"field '(\w+)'")
_DEEPEST = 6


def culprits(checkpoint: Checkpoint, error: Exception, make: Callable[[Checkpoint], object]) -> list[Keys]:
    """The fields that the error is about, the likeliest first; none where it is about none in particular.

    They are those that the error names, or has the value of, else those without which ``make`` (what raised the error)
    gets further. It is called with copies of the checkpoint whose config has a field less.
    """
    fields = dict(_fields(checkpoint.config))
    text = str(error)
    named = _FIELD.search(text)
    if named is not None:
        found = [keys for keys in fields if keys[-1] == named[1]]
        if found:
            return sorted(found, key=len, reverse=True)[:1]
    found = [keys for keys in fields if len(keys[-1]) > 3 and re.search(rf"\b{re.escape(keys[-1])}\b", text)]
    if 0 < len(found) <= _MOST:
        return found
    valued = [keys for keys, value in fields.items() if isinstance(value, str) and len(value) > 1 and value in text]
    helping = _helping(checkpoint, error, make, found or valued or list(fields))
    if not helping and (found or valued):
        helping = _helping(checkpoint, error, make, list(fields))
    return helping


def _helping(
    checkpoint: Checkpoint, error: Exception, make: Callable[[Checkpoint], object], tried: list[Keys]
) -> list[Keys]:
    """Of these fields, those without which it works; where there is none, those without which it fails otherwise."""
    started, works, other = time.monotonic(), list[Keys](), list[Keys]()
    with tempfile.TemporaryDirectory(prefix="moeprobe-") as scratch:
        # Objects first: what is inside of one can only matter where the object does.
        for keys in sorted(tried, key=len):
            if time.monotonic() - started > _SECONDS:
                break
            around = [one for one in (*works, *other) if one == keys[: len(one)]]
            if len(keys) > 1 and not around and any(one == keys[:-1] for one in tried):
                continue
            again = _without(checkpoint, keys, Path(scratch), make)
            if again is None:
                works.append(keys)
            elif (type(again), str(again)) != (type(error), str(error)):
                other.append(keys)
    best = works or other
    deepest = [keys for keys in best if not any(keys != one and keys == one[: len(keys)] for one in best)]
    return deepest if len(deepest) <= _MOST else []


def _without(
    checkpoint: Checkpoint, keys: Keys, scratch: Path, make: Callable[[Checkpoint], object]
) -> Exception | None:
    """What is raised where the config has this field no more."""
    config = deepcopy(checkpoint.config)
    holder = config
    for name in keys[:-1]:
        holder = holder[name]
    del holder[keys[-1]]
    (scratch / "config.json").write_text(json.dumps(config))
    try:
        with quiet_transformers():
            make(replace(checkpoint, config=config, folder=scratch))
    except Exception as error:
        return error
    return None


def _fields(config: dict[str, Any], around: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for name, value in config.items():
        keys = (*around, name)
        if keys == ("model_type",):
            continue
        yield keys, value
        if isinstance(value, dict) and len(keys) < _DEEPEST:
            yield from _fields(value, keys)
