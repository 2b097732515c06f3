"""Survey: the facts of every router of a checkpoint without a text.

The model runs once on random token ids, so that every fact is measured where the router stands: what it hands on,
what its experts receive, what its block does with their output.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.load import check_dtype, embedding_shape, load_model
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.token_ids import named_ids
from moeprobe.errors import CheckpointError, NotMoEError, OptionError
from moeprobe.findings.router import Router
from moeprobe.measure import every_gate
from moeprobe.opened import refuse_dense
from moeprobe.progress import Progress
from moeprobe.records.arguments import text_arguments
from moeprobe.records.recorder import Recording
from moeprobe.records.run import MODEL_ERRORS, failure, input_device
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.weights_scan import scan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS, _LENGTH = 8, 64
"""Random tokens of the run: enough to tell rules apart, seconds for any model that fits into memory."""


def routers(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    weights_only: bool = False,
    progress: bool = False,
) -> list[Router]:
    """Facts of every router of a checkpoint, measured on random token ids.

    With ``weights_only`` they are what its files and its config say: nothing is loaded, and of a hub model only
    ranges are read.

    Raises:
        MoeprobeError: the checkpoint cannot be used, or nothing can be said about any of its routers.

    """
    if weights_only:
        if device_map is not None or dtype != "auto":
            raise OptionError("--weights-only loads nothing, so --dtype and --device-map have no meaning.")
        return _stored(model, revision, progress)
    check_dtype(dtype)
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        before_weights=partial(refuse_dense, trust_remote_code=trust_remote_code),
    )
    live = load_model(
        checkpoint, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code, progress=progress
    ).model
    recording = _run(live)
    headers = read_headers(checkpoint.shards)
    found = [with_stored_dtypes(gate, headers).router for gate in every_gate(recording, live.config)]
    if not found:
        why = recording.failure or next(iter(recording.unread.values()), "none was called")
        raise NotMoEError(f"Nothing can be said about the routers of {model} ({why}).")
    return found


def _stored(model: str | Path, revision: str | None, progress: bool) -> list[Router]:
    """The facts of the files."""
    found = scan(model, revision=revision, bars=Progress(progress))
    unread = [one for one in found.not_checked if one.blocking]
    if unread:
        raise CheckpointError(
            f"{len(unread)} of {len(found.routers) + len(unread)} routers of {model} cannot be read from its files "
            f"({unread[0].what}: {unread[0].why}); leave out --weights-only to load the model, if transformers can."
        )
    if not found.routers:
        refused = found.not_checked[0]
        raise NotMoEError(
            f"No router of {model} can be read from its files ({refused.what}: {refused.why}); "
            "leave out --weights-only to load the model."
        )
    return [one.router for one in found.routers]


def _run(model: "PreTrainedModel") -> Recording:
    """Record one forward pass; a failure is kept in the recording."""
    recording = Recording(model, sink=lambda _: None)
    ids = _random_ids(model).to(input_device(model))
    try:
        with recording, torch.no_grad():
            model(**text_arguments(model, ids, torch.ones_like(ids)))
    except MODEL_ERRORS as error:
        recording.failure = failure(recording, error)
    return recording


def _random_ids(model: "PreTrainedModel") -> torch.Tensor:
    """Ids [rows, length] that the config gives no meaning: no image, no end of text."""
    vocabulary, _ = embedding_shape(model)
    special = set(named_ids(model.config.to_dict()))
    usable = torch.tensor([index for index in range(vocabulary) if index not in special])
    picks = torch.randint(len(usable), (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0))
    return usable[picks]
