"""Run the probe texts through a model and hand every record on."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.errors import CheckpointError
from moeprobe.probes.batches import Batch
from moeprobe.records.arguments import behind, is_encoder_decoder, text_arguments
from moeprobe.records.recorder import Recording, Sink
from moeprobe.shortage import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MODEL_ERRORS = (
    RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError, ImportError,
)  # fmt: skip
"""What a broken checkpoint makes a forward pass raise."""
FAILS = "the model's forward pass fails"


def probe_recording(model: "PreTrainedModel", sink: Sink) -> Recording:
    """A recording of a model that reads a probe; it has seen nothing yet.

    Raises:
        NotMoEError: no router was found in the model.

    """
    return Recording(model, sink=sink, keep_inputs=True)


def run_probe(
    recording: Recording, batches: Iterable[tuple[int, Batch]], flush: Callable[[int], None] = lambda _: None
) -> None:
    """Record more batches, each with its number in the probe; what the recording knows already stays.

    Where the model's forward pass raises, the recording ends there and its ``failure`` says why: a broken
    checkpoint (an index out of range, say) is what moeprobe looks for.

    Args:
        recording: of a model in eval mode; its sink gets every record.
        batches: the probe's token batches.
        flush: called with the number of every batch when it is done.

    Raises:
        CheckpointError: the memory does not suffice.
    """
    model: Any = recording.model
    device = input_device(model)
    try:
        with recording, torch.no_grad():
            for number, batch in batches:
                forward(recording, number, batch, device)
                try:
                    flush(number)
                except Exception as error:
                    recording.own_error = error
                    raise
    except MODEL_ERRORS as error:
        recording.failure = failure(recording, error)


def forward(recording: Recording, number: int, batch: Batch, device: torch.device) -> None:
    """Run the recorded model on the batch of this number, whose tokens lie on ``device`` then."""
    model: Any = recording.model
    recording.batch = number
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
    if is_out_of_memory(error) or "alloc" in line.lower():
        raise CheckpointError(
            "The memory does not suffice for a forward pass; use a smaller batch_tokens in the recipe, "
            "--dtype bfloat16 or --device-map auto."
        ) from error
    return f"{FAILS} ({type(error).__name__}: {line})"


def input_device(model: "PreTrainedModel") -> torch.device:
    """Where token ids go. Weights that accelerate has offloaded stand on the meta device; its hooks move the input."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def _one_output(model: "PreTrainedModel") -> dict[str, Any]:
    """Routing happens before the vocabulary: one position of output is enough."""
    return {"logits_to_keep": 1} if "logits_to_keep" in model.forward.__code__.co_varnames else {}
