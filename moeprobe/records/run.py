"""Run the probe texts through a model and hand every record on."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.errors import CheckpointError
from moeprobe.probes.batches import Batch
from moeprobe.records.arguments import behind, is_encoder_decoder, text_arguments
from moeprobe.records.recorder import Recording, Sink

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MODEL_ERRORS = (RuntimeError, LookupError, ValueError, TypeError, AttributeError)
"""What a broken checkpoint makes a forward pass raise."""


def run_probe(
    model: "PreTrainedModel", batches: Iterable[Batch], sink: Sink, flush: Callable[[], None] = lambda: None
) -> Recording:
    """Record every batch; rows are the counted tokens, documents are the probe's.

    Where the model's forward pass raises, the recording ends there and its ``failure`` says why: a broken
    checkpoint (an index out of range, say) is what moeprobe looks for.

    Args:
        model: a model in eval mode.
        batches: the probe's token batches.
        sink: gets every record.
        flush: called after every batch.

    Raises:
        NotMoEError: no router was found in the model.
        CheckpointError: the memory does not suffice.
    """
    device = input_device(model)
    recording = Recording(model, sink=sink, keep_inputs=True)
    try:
        with recording, torch.no_grad():
            for batch in batches:
                forward(recording, batch, device)
                flush()
    except MODEL_ERRORS as error:
        recording.failure = failure(recording, error)
    return recording


def forward(recording: Recording, batch: Batch, device: torch.device) -> None:
    """Run the recorded model on one batch, whose tokens lie on ``device`` then."""
    model: Any = recording.model
    decoder = behind(batch.counted, False) if is_encoder_decoder(model) else None
    recording.label(torch.tensor(batch.documents), batch.counted, decoder)
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    model(**text_arguments(model, ids, mask), **_one_output(model))


def failure(recording: Recording, error: Exception) -> str:
    """What an error of the model's forward pass means.

    Raises:
        CheckpointError: the memory does not suffice.
        Exception: the error itself, where it is the recording's own.
    """
    if error is recording.own_error:
        raise error
    line = " ".join(str(error).split())[:200]
    if isinstance(error, torch.OutOfMemoryError) or "alloc" in line.lower():
        raise CheckpointError(
            "The memory does not suffice for a forward pass; use a smaller batch_tokens in the recipe, "
            "--dtype bfloat16 or --device-map auto."
        ) from error
    return f"the model's forward pass fails ({type(error).__name__}: {line})"


def input_device(model: "PreTrainedModel") -> torch.device:
    """Where token ids go. Weights that accelerate has offloaded stand on the meta device; its hooks move the input."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def _one_output(model: "PreTrainedModel") -> dict[str, Any]:
    """Routing happens before the vocabulary: one position of output is enough."""
    return {"logits_to_keep": 1} if "logits_to_keep" in model.forward.__code__.co_varnames else {}
