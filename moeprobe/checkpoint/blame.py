"""Find the field of config.json for which transformers refuses to make a config, or a model."""

import re
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from moeprobe.checkpoint.config_fields import label, shown
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.errors import CheckpointError

Make = Callable[[dict[str, Any]], object]
"""Makes of a raw config what was to be made of it."""

_Keys = tuple[str, ...]
_SECONDS = 6.0
"""How long fields are tried; a skeleton takes from 10 milliseconds to a second."""
_MOST = 3
"""More fields than these are not named: any of them may be the wrong one."""
_FIELD = re.compile(r"field '(\w+)'")
_DEEPEST = 6


def refusal(config: dict[str, Any], source: str, error: Exception, make: Make) -> CheckpointError:
    """What transformers says of a config, with the fields that it is about where they can be told.

    They are those that the error names, or whose value it has; else those without which ``make``, which raised it,
    gets further.
    """
    fields = dict(_fields(config))
    why = f"{reason(error)} ({type(error).__name__})"
    named = _named(fields, error)
    if named:
        said = " and ".join(f"{'.'.join(keys)} ({shown(fields[keys])})" for keys in named)
        return CheckpointError(
            f"transformers makes no model of {label(source)} because of {said}: {why}; correct it, or "
            "get the file again."
        )
    tried = [keys for keys, value in fields.items() if isinstance(value, str) and value and value in str(error)]
    helping = _helping(config, error, make, tried) or _helping(config, error, make, list(fields))
    if helping:
        said = " or ".join(f"{'.'.join(keys)} ({shown(fields[keys])})" for keys in helping)
        return CheckpointError(
            f"transformers makes no model of {label(source)}: {why}; without {said} it gets further, so correct that, "
            "or get the file again."
        )
    return CheckpointError(f"transformers makes no model of {label(source)}: {why}; correct it, or get the file again.")


def reason(error: BaseException) -> str:
    """What an exception says first, without its full stop; else its name.

    That is its first line that says something, with the next one where it only announces it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    announced = len(lines) > 1 and lines[0].endswith(":")
    return " ".join(lines[: 2 if announced else 1]).rstrip(".") or type(error).__name__


def _named(fields: dict[_Keys, Any], error: Exception) -> list[_Keys]:
    text = str(error)
    match = _FIELD.search(text)
    if match is not None:
        found = [keys for keys in fields if keys[-1] == match[1]]
        # The one whose value is told as well.
        return sorted(found, key=lambda keys: (repr(fields[keys]) not in text, len(keys)))[:1]
    # A single word such as *main* says nothing unless it is quoted.
    found = [
        keys
        for keys in fields
        if re.search(rf"\b{re.escape(keys[-1])}\b" if "_" in keys[-1] else rf"['`]{re.escape(keys[-1])}['`]", text)
    ]
    return found if len(found) <= _MOST else []


def _helping(config: dict[str, Any], error: Exception, make: Make, tried: list[_Keys]) -> list[_Keys]:
    """Of these fields, those without which it works; where there is none, those without which it fails otherwise."""
    until, works, other = time.monotonic() + _SECONDS, list[_Keys](), list[_Keys]()
    known = set(tried)
    # Objects first: what is inside of one can only matter where the object does.
    for keys in sorted(tried, key=len):
        if time.monotonic() > until:
            break
        if keys[:-1] in known and keys[:-1] not in (*works, *other):
            continue
        again = _without(config, keys, make)
        if again is None:
            works.append(keys)
        elif (type(again), str(again)) != (type(error), str(error)):
            other.append(keys)
    best = works or other
    deepest = [keys for keys in best if not any(keys != one and keys == one[: len(keys)] for one in best)]
    return deepest if len(deepest) <= _MOST else []


def _without(config: dict[str, Any], keys: _Keys, make: Make) -> Exception | None:
    """What is raised where the config has this field no more."""
    changed = deepcopy(config)
    holder = changed
    for name in keys[:-1]:
        holder = holder[name]
    del holder[keys[-1]]
    try:
        with quiet_transformers():
            make(changed)
    except Exception as error:
        return error
    return None


def _fields(config: dict[str, Any], around: _Keys = ()) -> Iterator[tuple[_Keys, Any]]:
    for name, value in config.items():
        keys = (*around, name)
        if keys == ("model_type",):
            continue
        yield keys, value
        if isinstance(value, dict) and len(keys) < _DEEPEST:
            yield from _fields(value, keys)
