"""Provenance: which model was read, and with what."""

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import transformers
from torch import nn

import moeprobe
from moeprobe.checkpoint.open import Checkpoint
from moeprobe.environment import source_date_epoch
from moeprobe.findings.result import Environment, Model
from moeprobe.legible import legible

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def describe_model(
    checkpoint: Checkpoint | None, model: "PreTrainedModel", routers: Sequence[nn.Module], architecture: str = ""
) -> Model:
    """Source, revision, dtype and size; ``checkpoint`` is None for a model that was given loaded.

    ``architecture`` is the model's class, where an adapter stands around it.
    """
    source = legible(checkpoint.source) if checkpoint else f"{type(model).__name__} in memory"
    return Model(
        source=source,
        name=checkpoint.name if checkpoint else type(model).__name__,
        revision=checkpoint.revision if checkpoint else None,
        model_type=str(model.config.model_type),
        architecture=architecture or type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in model.parameters()),
        router_parameters=sum(p.numel() for router in routers for p in router.parameters()),
        files=len(checkpoint.shards) if checkpoint else 0,
        bytes=checkpoint.bytes if checkpoint else 0,
    )


def _device(model: nn.Module) -> str:
    """Where the model ran. What is on the disk, or was not needed any more, stands on the meta device."""
    tensors = chain(model.parameters(), model.buffers())
    return next((str(tensor.device) for tensor in tensors if not tensor.is_meta), "cpu")


def describe_environment(
    model: "PreTrainedModel | None",
    command: str,
    started: float,
    seconds: float,
    processes: int = 1,
    streamed: Literal["layer", "expert"] | None = None,
) -> Environment:
    """Versions, device, the experts implementation that ran, what was in memory at a time, the command, and when it
    ran; ``model`` is None where none ran.

    ``started`` in seconds since 1970. With SOURCE_DATE_EPOCH in the environment (reproducible-builds.org), that moment
    takes its place and no time has passed, so that equal runs give equal bytes.

    Raises:
        OptionError: SOURCE_DATE_EPOCH is no such moment.

    """
    if (epoch := source_date_epoch()) is not None:
        started, seconds = epoch, 0.0
    return Environment(
        moeprobe=moeprobe.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        platform=f"{platform.system()} {platform.machine()}",
        device="none" if model is None else _device(model),
        experts_implementation=None if model is None else getattr(model.config, "_experts_implementation", None),
        streamed=streamed,
        command=legible(command or f"moeprobe.analyze(...) in {Path(sys.argv[0]).name or 'python'}"),
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        processes=processes,
    )
