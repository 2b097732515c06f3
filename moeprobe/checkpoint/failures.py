"""Translate whatever transformers raises while it loads into one sentence of the error tree."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOMEM

from moeprobe.checkpoint.blame import Keys, culprits
from moeprobe.checkpoint.config_fields import label, shown
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.errors import CheckpointError, IncompleteError, MoeprobeError, UnsafeError

_NO_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory", "not enough memory")
# A row of the report that transformers logs before it raises an error without names.
_CONVERSION = re.compile(r"^(\S.*?)\s*\|\s*(?:\x1b\[\d+m)?CONVERSION", re.MULTILINE)


@contextmanager
def loading(
    checkpoint: Checkpoint, *, progress: bool = False, make: Callable[[Checkpoint], object] | None = None
) -> Iterator[None]:
    """Within this block transformers is quiet, and what it raises becomes a chained CheckpointError.

    ``make`` does what the block does; with it, the field of config.json is looked for that is to blame.
    """
    said: list[str] = []
    try:
        with quiet_transformers(progress=progress) as said:
            yield
    except MoeprobeError:
        raise
    except Exception as error:
        raise _translate(checkpoint, error, said, make) from error


def first_line(error: Exception) -> str:
    """What the message says first, without its full stop; else the exception's name.

    That is its first line that says something, with the next one where it only announces it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    announced = len(lines) > 1 and lines[0].endswith(":")
    return " ".join(lines[: 2 if announced else 1]).rstrip(".") or type(error).__name__


def _translate(
    checkpoint: Checkpoint, error: Exception, said: list[str], make: Callable[[Checkpoint], object] | None
) -> CheckpointError:
    source, line = checkpoint.source, first_line(error)
    if _is_out_of_memory(error):
        return CheckpointError(
            f"There is not enough memory for {source} ({checkpoint.bytes / 2**30:,.1f} GiB of weights); "
            f"try --dtype bfloat16 or --device-map auto."
        )
    unmade = _CONVERSION.findall("\n".join(said))
    if unmade:
        return IncompleteError(
            f"The files of {source} do not hold everything that {unmade[0]} is made of; "
            f"tensors of some experts are missing or have another shape."
        )
    if isinstance(error, ImportError):
        quantized = checkpoint.config.get("quantization_config")
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else None
        why = f"its weights are quantised ({method}) and need" if method else "it needs"
        return CheckpointError(f"Cannot load {source}: {why} a package that is not installed: {line}.")
    if "trust_remote_code" in str(error):
        return UnsafeError(
            f"{source} can only be loaded by running its own code; read that code, "
            f"then allow it with --trust-remote-code."
        )
    blamed = culprits(checkpoint, error, make) if make is not None else []
    if blamed:
        fields = " or ".join(f"{'.'.join(keys)} ({_value(checkpoint, keys)})" for keys in blamed)
        return CheckpointError(
            f"transformers makes no model of {label(source)}, because of {fields}: {line} ({type(error).__name__}); "
            "correct config.json, or get it again."
        )
    where = f"{label(source)} makes no model" if make is not None else f"transformers cannot load {source}"
    return CheckpointError(f"{where}: {line} ({type(error).__name__}).")


def _value(checkpoint: Checkpoint, keys: Keys) -> str:
    value: object = checkpoint.config
    for name in keys:
        value = value[name] if isinstance(value, dict) else None
    return shown(value)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
