"""Load a checkpoint: the model with all its weights, the tokenizer."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moeprobe.checkpoint.auto import choose_class
from moeprobe.checkpoint.blame import reason
from moeprobe.checkpoint.failures import loading
from moeprobe.checkpoint.fp8 import even_ragged_fp8
from moeprobe.checkpoint.hub import is_repository_name
from moeprobe.checkpoint.leftover import refusing_codes
from moeprobe.checkpoint.missing import check_missing, check_shapes
from moeprobe.checkpoint.open import Checkpoint, reading
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.checkpoint.skeleton import skeletons
from moeprobe.checkpoint.small_files import refuse_pipes, refuse_unreadable
from moeprobe.environment import check_endpoint
from moeprobe.errors import IncompleteError, OptionError, UnsafeError
from moeprobe.legible import is_legible, legible
from moeprobe.shortage import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Names that ``load_model`` takes as dtype; auto is what the checkpoint was saved in."""
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate works out; a device's name (cpu, cuda:0) is taken as well."""

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode without gradients.

    ``missing`` names selection biases set to zero, ``left_out`` the parts of the checkpoint that were not loaded.
    """

    model: "PreTrainedModel"
    missing: list[str]
    left_out: tuple[str, ...] = ()


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: str = "auto",
    device_map: str | dict[str, int | str] | None = None,
    trust_remote_code: bool = False,
    experts_implementation: str | None = None,
    parallel: str = "data",
    progress: bool = False,
) -> Loaded:
    """Load the model with all its weights.

    transformers fills missing weights with random numbers; those would be judged as if they were the
    checkpoint's, so they are an error here. Only selection biases may be missing: they start at zero.
    ``parallel`` may be ``tensor`` or ``expert``: every process calls this, and the weights are spread over them.

    Raises:
        OptionError: unknown dtype, device map or experts implementation.
        IncompleteError: tensors are missing or have another shape than the config says.
        UnsafeError: it needs code of the checkpoint and ``trust_remote_code`` is off.
        CheckpointError: it does not fit into memory, needs a package, or transformers cannot load it.
    """
    options = load_options(dtype, device_map, experts_implementation) | _spreading(parallel)
    with loading(checkpoint, progress=progress), even_ragged_fp8(), refusing_codes(checkpoint):
        chosen = choose_class(checkpoint, trust_remote_code)
        model, info = chosen.auto_class.from_pretrained(
            str(checkpoint.folder),
            config=chosen.config,
            trust_remote_code=chosen.code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below by name; transformers' own error names nothing
            **options,
        )
    check_shapes(checkpoint, info["mismatched_keys"], skeletons(checkpoint, trust_remote_code))
    missing = check_missing(checkpoint, model, info["missing_keys"], info["unexpected_keys"])
    return Loaded(model.eval().requires_grad_(False), missing, chosen.left_out)


def embedding_shape(model: "PreTrainedModel") -> tuple[int, int]:
    """Token ids that the model knows, and its hidden size; from the config where it hides its embedding."""
    try:
        rows, width = model.get_input_embeddings().weight.shape
    except (NotImplementedError, AttributeError):
        text = model.config.get_text_config()
        rows, width = text.vocab_size, text.hidden_size
    return int(rows), int(width)


def load_tokenizer(
    checkpoint: Checkpoint, override: str | None = None, *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, or that of ``override`` (a folder or hub id).

    Raises:
        IncompleteError: there is none, it is empty, or it cannot be read.
        UnsafeError: it needs code that comes with it and ``trust_remote_code`` is off.
    """
    from transformers import AutoTokenizer

    source = override or checkpoint.tokenizer_source
    folder = Path(os.path.expanduser(source))
    if not is_legible(source) or (not folder.is_dir() and (folder.exists() or not is_repository_name(source))):
        raise IncompleteError(
            f"The tokenizer {legible(source)!r} is neither a folder (of a name in UTF-8) nor a hub id; give "
            "another with --tokenizer."
        )
    # transformers makes an empty tokenizer out of a folder that has none, so look before it does.
    if folder.is_dir() and not _has_tokenizer(folder):
        raise IncompleteError(
            f"{source} has no tokenizer; copy tokenizer.json into it, or give another folder or hub id "
            f"with --tokenizer."
        )
    if folder.is_dir():
        with reading(source):
            refuse_pipes(folder)
            refuse_unreadable(folder, _TOKENIZER_SETTINGS)
    else:
        check_endpoint()
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder) if folder.is_dir() else source,
                trust_remote_code=trust_remote_code,
                local_files_only=folder.is_dir(),
            )
    except BaseException as error:
        # A panic of the tokenizers library is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if is_out_of_memory(error):
            raise
        if "trust_remote_code" in str(error):
            raise UnsafeError(
                f"The tokenizer of {source} can only be loaded by running its own code; read that code, "
                f"then allow it with --trust-remote-code, or give another with --tokenizer."
            ) from error
        raise IncompleteError(
            f"The tokenizer of {source} cannot be loaded ({reason(error)}); give another with --tokenizer."
        ) from error
    if len(tokenizer) == 0:
        raise IncompleteError(f"The tokenizer of {source} is empty; give another with --tokenizer.")
    return tokenizer


def check_dtype(dtype: str) -> None:
    """Do nothing for a name that ``load_model`` takes.

    Raises:
        OptionError: it is another one.
    """
    if dtype not in DTYPES:
        near = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}.get(dtype.lower())
        meant = f" (did you mean {near!r}?)" if near else ""
        raise OptionError(f"Unknown dtype {dtype[:80]!r}{meant}; choose one of {', '.join(DTYPES)}.")


def load_options(dtype: str, device_map: str | dict[str, int | str] | None, experts: str | None) -> dict[str, Any]:
    """The arguments of transformers' ``from_pretrained`` that say how, not what.

    Raises:
        OptionError: unknown dtype, device map or experts implementation.
    """
    check_dtype(dtype)
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if device_map is not None:
        if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
            _check_device(device_map)
        options["device_map"] = device_map
    if experts is not None:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

        known = ["eager", *sorted(ALL_EXPERTS_FUNCTIONS.keys())]
        if experts not in known:
            raise OptionError(f"Unknown experts implementation {experts!r}; choose one of {', '.join(known)}.")
        options["experts_implementation"] = experts
    return options


def _spreading(parallel: str) -> dict[str, Any]:
    """How transformers spreads the weights over the processes that ``torch.distributed`` knows.

    With ``expert`` the experts are, and attention by its tensor parallel plan, since one batch is read by all.
    """
    if parallel == "data":
        return {}
    from transformers.distributed import DistributedConfig

    size = torch.distributed.get_world_size()
    if parallel == "tensor":
        return {"distributed_config": DistributedConfig(tp_size=size, tp_plan="auto")}
    return {"distributed_config": DistributedConfig(tp_size=size, ep_size=size)}


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise OptionError("The device map meta holds no weights; choose cpu, cuda:N or auto.")
        torch.empty(1, device=device)
    except OptionError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        choices = ", ".join([*DEVICE_MAPS, "cpu"])
        raise OptionError(
            f"The device map {name!r} is no device of this computer; choose one of {choices}, or cuda:0."
        ) from error


def _has_tokenizer(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    return any(name in _TOKENIZER_FILES or name.endswith(_TOKENIZER_SUFFIXES) for name in names)
