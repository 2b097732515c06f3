"""Identity: what must be the same for an interrupted analysis to be continued, by the name that a message gives it."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import transformers

import moeprobe
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.errors import OptionError
from moeprobe.probes.batches import Batches
from moeprobe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def asked(recipe: Recipe, processes: int, records: bool, loading: Mapping[str, str | None]) -> dict[str, str]:
    """What the command asks for; ``loading`` are the options of the same names, None where they are not given."""
    return {
        "recipe": _digest(recipe.model_dump(mode="json")),
        "version of moeprobe, torch or transformers": f"{moeprobe.__version__} {torch.__version__} "
        f"{transformers.__version__}",
        "number of processes": str(processes),
        "choice about --save-records": str(records),
        **{f"--{name.replace('_', '-')}": str(value) for name, value in loading.items()},
    }


def read(checkpoint: Checkpoint | None, batches: Batches, model: "PreTrainedModel") -> dict[str, str]:
    """What is read: weights (by name, size and time of their files, and the config), and every token of the texts.

    Raises:
        OptionError: the model was given loaded, so that nobody could tell it from another.

    """
    if checkpoint is None:
        raise OptionError("The progress of a model that is already loaded cannot be kept; give its folder or hub id.")
    files = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in checkpoint.shards]
    sources = [document.source for document in batches.documents]
    shapes = [list(batch.input_ids.shape) for batch in batches]
    return {
        "checkpoint (or changed weights)": _digest(
            [str(checkpoint.folder.absolute().resolve()), checkpoint.revision, files, checkpoint.config]
        ),
        "probe: other texts or another tokenizer": _digest([batches.facts("").digest, sources, shapes]),
        "experts implementation": str(getattr(model.config, "_experts_implementation", None)),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
