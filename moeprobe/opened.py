"""Open a model so that it can run: from memory, or with its layers on the disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from moeprobe.checkpoint.config_sizes import refuse_hidden_experts
from moeprobe.checkpoint.load import DEVICE_MAPS, check_dtype, embedding_shape, load_model, load_tokenizer
from moeprobe.checkpoint.open import Checkpoint, open_checkpoint
from moeprobe.checkpoint.skeleton import skeleton
from moeprobe.checkpoint.unread import find_unread
from moeprobe.errors import NotMoEError, OptionError
from moeprobe.findings.result import Unchecked
from moeprobe.findings.unread import Unread
from moeprobe.parallel.launch import Kind, own_device
from moeprobe.records.streaming import Layers, open_stream
from moeprobe.routers.find import find_sites
from moeprobe.routers.wrapped import unframed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Opened:
    """A model ready to run.

    ``checkpoint`` is None for a model that was given loaded; ``unloaded`` names what has no weights,
    ``unread`` what is in the files and was not read (None without files). ``layers`` is set where they are on the disk.
    """

    checkpoint: Checkpoint | None
    live: "PreTrainedModel"
    reader: "PreTrainedTokenizerBase"
    unloaded: list[Unchecked]
    layers: Layers | None = None
    unread: list[Unread] | None = None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return embedding_shape(self.live)[0]

    @property
    def dtype(self) -> str:
        """Dtype of the model, in torch's words."""
        return str(self.live.dtype).removeprefix("torch.")

    @property
    def streamed(self) -> Literal["layer", "expert"] | None:
        """What was in memory at a time; None where the whole model is."""
        if self.layers is None:
            return None
        return "expert" if self.layers.stream.by_expert else "layer"

    @property
    def reading(self) -> Literal["model", "layer", "expert"]:
        """What is in memory at a time."""
        return self.streamed or "model"


def open_model(
    model: "str | Path | PreTrainedModel",
    tokenizer: "str | PreTrainedTokenizerBase | None",
    *,
    revision: str | None,
    dtype: str,
    device_map: str | None,
    trust_remote_code: bool,
    progress: bool,
    parallel: Kind = "data",
    suits: Callable[[str], None] = lambda _: None,
    stream: bool | None = False,
    memory: int | None = None,
    reading: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Open and load a checkpoint, or take a model that is already loaded.

    ``suits`` raises for a model type that cannot be used as asked; it is called before weights are read. ``stream``
    leaves the layers on the disk; None does so where they exceed ``memory`` bytes (what is free without it), and says
    so to ``announce``. ``reading`` is what an earlier run had in memory at a time (``Opened.reading``); it is done so
    again, whatever is free now.

    Raises:
        MoeprobeError: it cannot be used; the message says what to do.

    """
    if not isinstance(model, str | Path):
        if tokenizer is None or isinstance(tokenizer, str):
            raise OptionError("A model that is already loaded needs its tokenizer: analyze(model, tokenizer=...).")
        if stream:
            raise OptionError("A model that is already loaded cannot be streamed; give its folder or hub id.")
        # What compiles it or runs it in parallel adds nothing that is judged, and hides what it is.
        live = cast("PreTrainedModel", unframed(model))
        suits(str(live.config.model_type))
        return Opened(None, live.eval(), tokenizer, [])

    check_dtype(dtype)
    if stream and device_map in DEVICE_MAPS:
        raise OptionError(f"--stream runs on one device; give cpu or cuda:0 as --device-map, not {device_map}.")
    empty: list[PreTrainedModel] = []

    def look_first(opened: Checkpoint) -> None:
        empty.append(refuse_dense(opened, trust_remote_code=trust_remote_code))
        suits(opened.model_type)

    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tokenizer=tokenizer if isinstance(tokenizer, str) else None,
        before_weights=look_first,
    )
    reader = (
        load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
        if tokenizer is None or isinstance(tokenizer, str)
        else tokenizer
    )
    layers, bare = None, empty.pop()
    if reading is not None:
        stream = reading != "model"
    if stream or (stream is None and device_map in (None, "cpu")):
        layers = open_stream(
            checkpoint,
            bare,
            dtype,
            device_map,
            memory,
            trust_remote_code=trust_remote_code,
            forced=bool(stream),
            by_expert=None if reading is None else reading == "expert",
            announce=announce,
        )
    if layers is None:
        loaded = load_model(
            checkpoint,
            dtype=dtype,
            device_map=own_device(device_map, parallel),
            trust_remote_code=trust_remote_code,
            parallel=parallel,
            progress=progress,
        )
    else:
        loaded = layers.loaded
    unloaded = [
        Unchecked(what=name, why="the checkpoint has no such tensor; transformers used zeros for it")
        for name in loaded.missing
    ]
    unloaded += [Unchecked(what=part, why="this part of the checkpoint does not read text") for part in loaded.left_out]
    unread = find_unread(checkpoint, bare, loaded.left_out)
    unloaded += [Unchecked(what=one.sentence(), why=one.why) for one in unread]
    return Opened(checkpoint, loaded.model, reader, unloaded, layers, unread)


def refuse_streaming(stream: bool | None, memory: str | None) -> None:
    """Do nothing if no streaming was asked for; to be called where several processes share the work.

    Raises:
        OptionError: it was.

    """
    if stream or memory is not None:
        raise OptionError(
            f"{'--stream' if stream else '--memory'} is for one process that holds the model alone; leave it out, or "
            "start one process, without --parallel."
        )


def refuse_dense(opened: Checkpoint, *, trust_remote_code: bool) -> "PreTrainedModel":
    """Look for routers in the model's skeleton, before any weight is fetched or read; returns the skeleton.

    Raises:
        NotMoEError: there are none.
        CheckpointError: there are none, and the files hold experts.

    """
    empty = skeleton(opened, trust_remote_code=trust_remote_code)
    if not find_sites(empty):
        refuse_hidden_experts(opened.config, opened.shapes, opened.source)
        raise NotMoEError(
            f"{opened.source} ({opened.model_type}) is a dense model: no router was found in it. moeprobe inspects "
            "Mixture-of-Experts checkpoints; if this is one, correct model_type and architectures in config.json."
        )
    return empty
