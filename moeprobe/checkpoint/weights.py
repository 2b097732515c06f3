"""Which files hold the weights, judged by their names and the index; every other format is refused here."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from moeprobe.checkpoint.headers import TensorHeader, read_headers
from moeprobe.checkpoint.small_files import read_json
from moeprobe.errors import CheckpointError, IncompleteError, UnsafeError
from moeprobe.regular_file import LONGEST_NAME

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER = {".gguf": "GGUF", ".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX"}
NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)[\w-]*\.\w+$")
"""Names of files that a trainer writes beside the weights."""
WEIGHT_ENDINGS = (".safetensors", *_PICKLE, *_OTHER)
"""How the names of weight files end, in whatever form."""
# transformers prefers such files to all others in the folder, so their presence alone decides.
_DISTRIBUTED = re.compile(r"(shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors|\.metadata|.*\.distcp)$")


def check_names(names: Collection[str], source: str) -> None:
    """Refuse a folder or repository for what its file names show, before anything is read or downloaded.

    Raises:
        IncompleteError: no config, no weights, or weights in a format other than safetensors.
        UnsafeError: the weights are pickles only.
    """
    if any(_DISTRIBUTED.match(name) for name in names):
        raise IncompleteError(
            f"{source} is a distributed checkpoint (DCP); gather it and save it again with `save_pretrained`."
        )
    if "config.json" not in names:
        raise _no_config(names, source)
    if SINGLE in names or INDEX in names:
        return
    if any(name.endswith(".safetensors.index.json") for name in names):
        return  # named by `transformers_weights` in the config, which is read later
    stray = sorted(name for name in names if name.endswith(".safetensors"))
    if "adapter_model.safetensors" in stray or "adapter_config.json" in names:
        raise _adapter(source)
    if stray:
        raise IncompleteError(
            f"{source} has safetensors files ({stray[0]}) but neither {SINGLE} nor {INDEX}, "
            f"which says where each tensor is; get the index as well."
        )
    pickles = sorted(name for name in names if name.endswith(_PICKLE) and not NOT_WEIGHTS.match(name))
    if pickles:
        raise UnsafeError(
            f"{source} has pickle weights only ({pickles[0]}), which can run code when read; "
            f"convert them where you trust them: transformers' `save_pretrained` writes safetensors."
        )
    for name in sorted(names):
        if (label := _OTHER.get(Path(name).suffix)) is not None:
            raise IncompleteError(
                f"{source} has {label} weights only ({name}); moeprobe reads safetensors: "
                f"use the original checkpoint, or convert it."
            )
    raise IncompleteError(f"{source} has no weights: expected {SINGLE}, or {INDEX} with its shards.")


def find_shards(folder: Path, config: dict[str, Any], source: str) -> tuple[list[str], Path | None]:
    """Names of the files that hold the weights, and the index that lists them (None: one file, no index).

    Raises:
        IncompleteError: the index is not valid, or names files outside of the folder.
    """
    first = find_first(folder, config, source)
    if first.suffix != ".json":
        return [first.name], None
    return sorted(set(read_weight_map(first).values())), first


def find_first(folder: Path, config: dict[str, Any], source: str) -> Path:
    """The only weight file, or the index of several.

    Raises:
        IncompleteError: the config names something else, or the index is missing.
    """
    named = config.get("transformers_weights")
    if isinstance(named, str):
        first = named
    else:
        first = SINGLE if (folder / SINGLE).is_file() or not (folder / INDEX).is_file() else INDEX
    if Path(first).name != first or not first.endswith((".safetensors", ".safetensors.index.json")):
        raise IncompleteError(
            f"The config of {source} names {first!r} as its weights (transformers_weights), "
            f"which is not a safetensors file in its folder."
        )
    if first.endswith(".json") and not (folder / first).is_file():
        raise IncompleteError(f"The weight index {first} is missing from {source}; get it again.")
    return folder / first


def look_ahead(
    folder: Path, config: dict[str, Any]
) -> tuple[dict[str, TensorHeader] | None, dict[str, tuple[int, ...] | None]]:
    """What can be known of the tensors before it is known that the files are whole.

    Returns:
        The headers, None where not every file is there and sound, and the shapes by name (None where only an index
        names the tensor). What is wrong with the files is not said here: whether they are looked at is not sure yet.

    """
    try:
        names, index = find_shards(folder, config, str(folder))
    except (CheckpointError, OSError):
        return None, {}
    try:
        headers = read_headers([folder / name for name in names])
        return headers, {name: header.shape for name, header in headers.items()}
    except (CheckpointError, OSError):
        return None, dict.fromkeys(read_weight_map(index)) if index is not None else {}


def check_shards(
    folder: Path, names: list[str], index: Path | None, headers: dict[str, TensorHeader] | None = None
) -> list[Path]:
    """Paths of the shards, after every one was found whole and to hold the tensors that the index promises.

    ``headers`` are theirs, where they were read already.

    Raises:
        IncompleteError: shards are missing, damaged, or lack a promised tensor.
    """
    shards = [folder / name for name in names]
    refuse_missing(folder, names)
    headers = read_headers(shards) if headers is None else headers
    if not headers:
        raise IncompleteError(f"The weight files in {folder} hold no tensors; get the checkpoint again.")
    refuse_broken_promises({} if index is None else read_weight_map(index), headers, str(index))
    return shards


def refuse_missing(folder: Path, names: list[str]) -> None:
    """Do nothing if every shard is there.

    Raises:
        IncompleteError: shards are missing.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        if (folder / missing[0]).exists():
            raise IncompleteError(f"{folder / missing[0]} is no regular file; copy or download the weights again.")
        raise IncompleteError(
            f"{len(missing)} of {len(names)} weight files are missing from {folder}, "
            f"the first is {missing[0]}; copy or download them again."
        )


def refuse_broken_promises(promised: Mapping[str, str], held: Collection[str], index: str) -> None:
    """Do nothing if every tensor that the index promises (name -> shard) is held by a shard.

    Raises:
        IncompleteError: one is not.
    """
    lost = sorted(name for name in promised if name not in held)
    if lost:
        raise IncompleteError(
            f"The index {index} promises {len(lost)} tensors that no shard holds, the first is {lost[0]} "
            f"in {promised[lost[0]]}; the shards belong to another save of the model."
        )


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> name of the shard that holds it.

    Raises:
        IncompleteError: the index is not valid, or names files outside of its folder.
    """
    table = read_json(index, unique=True)
    files = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(files, dict) or {*map(type, files.values())} - {str}:
        raise IncompleteError(
            f"The weight index {index} has no weight_map, which says in which file each tensor is; get it again."
        )
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise IncompleteError(f"The weight index {index} names a file outside of its folder: {file[:200]!r}.")
        if not file.endswith(".safetensors") or len(os.fsencode(file)) > LONGEST_NAME or not file.isprintable():
            raise IncompleteError(
                f"The weight index {index} names {file[:200]!r} as a weight file, which cannot be the name of a "
                "safetensors file; get the index again."
            )
    if not files:
        raise IncompleteError(f"The weight index {index} lists no tensors; get it again.")
    if not isinstance(table.get("metadata"), dict):
        raise IncompleteError(f"The weight index {index} has no metadata, which transformers needs; get it again.")
    return files


def _no_config(names: Collection[str], source: str) -> CheckpointError:
    if "adapter_config.json" in names:
        return _adapter(source)
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if gguf:
        return IncompleteError(
            f"{source} has GGUF weights only ({gguf[0]}); moeprobe reads safetensors: use the original checkpoint."
        )
    if not names:
        return IncompleteError(f"{source} is empty; expected config.json and safetensors weights.")
    return IncompleteError(
        f"{source} has no config.json, so it is not a checkpoint in the Hugging Face layout; "
        f"give the folder that `save_pretrained` wrote."
    )


def _adapter(source: str) -> IncompleteError:
    return IncompleteError(
        f"{source} is a PEFT adapter without its base model; merge it first "
        f"(`merge_and_unload()`, then `save_pretrained`) and give the merged folder."
    )
