"""The model without its weights: every module and shape on the meta device, made of config.json alone."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.checkpoint.auto import choose_class
from moeprobe.checkpoint.config_sizes import refuse_other_sizes
from moeprobe.checkpoint.config_values import refuse_contradictions
from moeprobe.checkpoint.failures import loading
from moeprobe.checkpoint.open import Checkpoint, has_native_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def skeleton(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> "PreTrainedModel":
    """The model on the meta device: every module and shape, no weights read, no memory used.

    Raises:
        CheckpointError: the config does not make a model, or another than the files hold; the message has the field.
        UnsafeError: it needs code of the checkpoint and ``trust_remote_code`` is off.
    """
    # Where its own code makes the model, the config alone makes nothing.
    native = has_native_class(checkpoint.model_type)
    with loading(checkpoint, make=skeletons(checkpoint, trust_remote_code) if native else None):
        return _empty(checkpoint, trust_remote_code)


def skeletons(checkpoint: Checkpoint, trust_remote_code: bool) -> Callable[[dict[str, Any]], "PreTrainedModel"]:
    """What makes skeletons of changed configs of this checkpoint, whatever its files hold."""

    def make(config: dict[str, Any]) -> "PreTrainedModel":
        with tempfile.TemporaryDirectory(prefix="moeprobe-") as scratch:
            (Path(scratch) / "config.json").write_text(json.dumps(config))
            changed = replace(checkpoint, config=config, folder=Path(scratch), shapes={})
            return _empty(changed, trust_remote_code)

    return make


def _empty(checkpoint: Checkpoint, trust_remote_code: bool) -> "PreTrainedModel":
    chosen = choose_class(checkpoint, trust_remote_code)
    if not chosen.left_out:
        complete = chosen.config.to_dict()
        refuse_contradictions(complete, checkpoint.source)
        refuse_other_sizes(complete, checkpoint.shapes, checkpoint.source, checkpoint.config, exact=not chosen.code)
    with torch.device("meta"):
        model: PreTrainedModel = chosen.auto_class.from_config(chosen.config, trust_remote_code=chosen.code)
    return model.eval().requires_grad_(False)
