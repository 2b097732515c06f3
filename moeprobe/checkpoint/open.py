"""Open a checkpoint: from a folder or a hub id to files that are known to be whole. Nothing is loaded."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moeprobe.checkpoint.config_sizes import refuse_other_sizes
from moeprobe.checkpoint.config_values import refuse_bad_values
from moeprobe.checkpoint.hub import Repository, is_repository_name, look_up
from moeprobe.checkpoint.quantised.known import refuse_unknown_method
from moeprobe.checkpoint.small_files import read_json, refuse_pipes, refuse_unreadable
from moeprobe.checkpoint.weights import check_names, check_shards, find_shards, look_ahead
from moeprobe.errors import CheckpointError, IncompleteError, NotFoundError, UnsafeError
from moeprobe.legible import is_legible, legible


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the local disk.

    ``source`` is what the user gave, ``name`` its last part, ``revision`` the resolved commit (None for a
    folder), ``config`` the raw config.json, ``bytes`` the size of all ``shards`` together,
    ``tokenizer_source`` the folder or hub id of the tokenizer, and ``shapes`` those of the tensors in the files
    (None where only an index names them; empty where nothing is known of them yet).
    """

    source: str
    folder: Path
    name: str
    revision: str | None
    config: dict[str, Any]
    model_type: str
    architecture: str
    shards: list[Path]
    bytes: int
    tokenizer_source: str
    shapes: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict, repr=False, compare=False)


def open_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tokenizer: str | None = None,
    before_weights: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint:
    """Open a folder, or a model of the hub (only safetensors, JSON and tokenizer files are ever fetched).

    Every shard's header is read, no weights are. ``before_weights`` is called with the checkpoint as far as
    its config tells (``shards`` is empty), before weights are downloaded or looked at: what it raises, for
    instance NotMoEError, costs no download. ``revision`` is for the hub only.

    Raises:
        NotFoundError: no such folder or hub id, no permission, or the hub cannot be reached.
        IncompleteError: config or weights are missing, damaged or in another format.
        UnsafeError: pickle weights, or code of the checkpoint without ``trust_remote_code``.
        CheckpointError: the model type is not known to transformers, a field of the config has a value that no model
            can have or that the files do not agree with, or a file may not be read.
    """
    with reading(str(source)):
        return _open(str(source), revision, trust_remote_code, tokenizer, before_weights)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Within this block what the operating system refuses becomes a CheckpointError."""
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(f"No permission to read {error.filename or source}; check its owner and mode.") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {error.filename or source}: {error.strerror or error}.") from error


def _open(
    source: str,
    revision: str | None,
    trust_remote_code: bool,
    tokenizer: str | None,
    before_weights: Callable[[Checkpoint], None] | None,
) -> Checkpoint:
    repository = None
    folder = local_folder(source)
    if folder is None:
        repository = look_up(source, revision)
        label = source if repository.cached is None else f"The cached copy of {source}"
        check_names(repository.names, label)
        folder = repository.fetch(repository.small_files(code=trust_remote_code))
    else:
        check_names({path.name for path in folder.iterdir()}, source)
    refuse_pipes(folder)
    config = read_raw_config(folder)
    refuse_unreadable(folder, ["generation_config.json"])
    model_type = str(config["model_type"])
    # Before transformers is imported: neither needs it. Sizes first, since then the message has both numbers.
    headers, shapes = look_ahead(folder, config)
    refuse_other_sizes(config, shapes, source)
    refuse_bad_values(config, source)
    _check_model_type(config, model_type, source, trust_remote_code)
    refuse_unknown_method(config, source)
    architectures = config.get("architectures")
    checkpoint = Checkpoint(
        source=source,
        folder=folder,
        name=source.split("/")[-1] if repository is not None else folder_name(folder),
        revision=None if repository is None else folder.name,
        config=config,
        model_type=model_type,
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        shards=[],
        bytes=0,
        tokenizer_source=tokenizer or str(folder),
        shapes=shapes,
    )
    if before_weights is not None:
        before_weights(checkpoint)
    names, index = find_shards(folder, config, source)
    if repository is not None:
        _fetch_weights(repository, folder, names)
    shards = check_shards(folder, names, index, headers)
    return replace(checkpoint, shards=shards, bytes=sum(shard.stat().st_size for shard in shards))


def local_folder(source: str) -> Path | None:
    """The folder that is meant, None for a hub id.

    Raises:
        NotFoundError: it is neither.
    """
    if not is_legible(source):
        raise NotFoundError(
            f"The name {legible(source)!r} is not valid UTF-8, and transformers cannot open such a path; rename the "
            "folder, or give a symbolic link to it."
        )
    path = Path(os.path.expanduser(source))
    if source and path.is_dir():
        return path
    if path.exists():
        raise NotFoundError(f"{source} is no folder; give the folder that holds config.json and the weights.")
    looks_like_path = source.startswith((".", "~", os.sep)) or "\\" in source
    if looks_like_path or not is_repository_name(source):
        raise NotFoundError(f"There is no folder {source!r}, and it is not a hub id (organisation/name) either.")
    return None


def folder_name(folder: Path) -> str:
    """The last part of where the folder really lies."""
    return legible(Path(os.path.realpath(folder)).name)


def _fetch_weights(repository: Repository, folder: Path, names: list[str]) -> None:
    listed = [name for name in names if name in repository.names]
    if repository.cached is None and len(listed) == len(names):
        # The commit, not the branch: it may have moved since the config was fetched.
        replace(repository, revision=folder.name).fetch(names)


def read_raw_config(folder: Path) -> dict[str, Any]:
    """config.json as it is.

    Raises:
        IncompleteError: it is not valid, or names no model type.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise IncompleteError(
            f"{path} has no model_type, so it is not the config of a transformers model; "
            f"give the folder that `save_pretrained` wrote."
        )
    return config


def has_native_class(model_type: str) -> bool:
    """Whether the installed transformers knows this model type; then no code of a checkpoint is ever run."""
    # Not at the top: transformers imports torch, and everything refused before this line needs neither.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _check_model_type(config: dict[str, Any], model_type: str, source: str, trust_remote_code: bool) -> None:
    if has_native_class(model_type):
        return
    if config.get("auto_map"):
        if not trust_remote_code:
            raise UnsafeError(
                f"{source} can only be loaded by running its own code (transformers does not have the "
                f"model type {model_type!r}); read that code, then allow it with --trust-remote-code."
            )
        return
    from transformers import __version__

    raise CheckpointError(
        f"transformers {__version__} does not know the model type {model_type!r} of {source}; "
        f"check config.json, or upgrade transformers."
    )
