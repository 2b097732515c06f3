"""Translate whatever transformers raises while it loads into one sentence of the error tree."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from moeprobe.checkpoint.blame import Make, reason, refusal
from moeprobe.checkpoint.config_fields import label
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.checkpoint.quantised.known import INSTEAD
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.errors import CheckpointError, IncompleteError, MoeprobeError, UnsafeError
from moeprobe.shortage import is_out_of_memory

# A row of the report that transformers logs before it raises an error without names.
_CONVERSION = re.compile(r"^(\S.*?)\s*\|\s*(?:\x1b\[\d+m)?CONVERSION", re.MULTILINE)


@contextmanager
def loading(checkpoint: Checkpoint, *, progress: bool = False, make: Make | None = None) -> Iterator[None]:
    """Within this block transformers is quiet, and what it raises becomes a chained CheckpointError.

    ``make`` does of a config what the block does; with it, the field of config.json is looked for that is to blame.
    """
    said: list[str] = []
    try:
        with quiet_transformers(progress=progress) as said:
            yield
    except MoeprobeError:
        raise
    except Exception as error:
        raise _translate(checkpoint, error, said, make) from error


def _translate(checkpoint: Checkpoint, error: Exception, said: list[str], make: Make | None) -> CheckpointError:
    source, line = checkpoint.source, reason(error)
    if is_out_of_memory(error) and make is not None:
        return CheckpointError(
            f"A size in {label(source)} is beyond any model: the memory does not suffice to lay out an empty one "
            f"({line}); correct it, or get the file again."
        )
    if is_out_of_memory(error):
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
    quantized = checkpoint.config.get("quantization_config")
    method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else None
    instead = f"; or {INSTEAD}" if method else ""
    if isinstance(error, ImportError):
        why = f"its weights are quantised ({method}) and need" if method else "it needs"
        return CheckpointError(f"Cannot load {source}: {why} a package that is not installed: {line}{instead}.")
    if "trust_remote_code" in str(error):
        return UnsafeError(
            f"{source} can only be loaded by running its own code; read that code, "
            f"then allow it with --trust-remote-code."
        )
    if make is not None and not instead:
        return refusal(checkpoint.config, source, error, make)
    return CheckpointError(f"transformers cannot load {source}: {line} ({type(error).__name__}){instead}.")
