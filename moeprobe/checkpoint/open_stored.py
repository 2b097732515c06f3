"""Open a checkpoint to read a few of its tensors: config, index, and a way to its files. Any model type will do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeprobe.checkpoint.hub import Repository, look_up
from moeprobe.checkpoint.open import Checkpoint, folder_name, local_folder, read_raw_config, reading
from moeprobe.checkpoint.ranges import Files, HubFiles, LocalFiles
from moeprobe.checkpoint.small_files import refuse_pipes
from moeprobe.checkpoint.weights import check_names, find_first, read_weight_map, refuse_missing

_INDEX_ENDING = ".safetensors.index.json"


@dataclass(frozen=True, eq=False)
class StoredCheckpoint:
    """A checkpoint whose weights stay where they are.

    ``source``, ``folder``, ``name``, ``revision`` and ``config`` as in ``Checkpoint``. ``shards`` are the names of its
    weight files, each with the tensors that the index promises in it (none where there is no index; its name is
    ``index``). ``listing`` are the names of all files in its folder or repository.
    """

    source: str
    folder: Path
    name: str
    revision: str | None
    config: dict[str, Any]
    model_type: str
    architecture: str
    files: Files
    shards: dict[str, list[str]]
    index: str | None
    listing: frozenset[str]

    def without_weights(self) -> Checkpoint:
        """The checkpoint as far as its config tells: enough for its skeleton."""
        return Checkpoint(
            source=self.source,
            folder=self.folder,
            name=self.name,
            revision=self.revision,
            config=self.config,
            model_type=self.model_type,
            architecture=self.architecture,
            shards=[],
            bytes=0,
            tokenizer_source=str(self.folder),
        )


def open_stored(source: str, revision: str | None, suits: Callable[[str], None]) -> StoredCheckpoint:
    """Open a folder or a model of the hub, of which only config and index are fetched.

    ``suits`` raises for a model type that cannot be used as asked.

    Raises:
        NotFoundError: no such folder or hub id, no permission, or the hub cannot be reached.
        IncompleteError: config, index or shards are missing or damaged.
        UnsafeError: pickle weights only.
        CheckpointError: a file may not be read.

    """
    with reading(source):
        return _open(source, revision, suits)


def _open(source: str, revision: str | None, suits: Callable[[str], None]) -> StoredCheckpoint:
    repository, folder = None, local_folder(source)
    if folder is None:
        repository = look_up(source, revision)
        listing = frozenset(repository.names)
        check_names(listing, source if repository.cached is None else f"The cached copy of {source}")
        folder = repository.fetch(_indexes(repository))
    else:
        listing = frozenset(path.name for path in folder.iterdir())
        check_names(listing, source)
    refuse_pipes(folder)
    config = read_raw_config(folder)
    suits(str(config["model_type"]))
    first = find_first(folder, config, source)
    shards: dict[str, list[str]] = {}
    if index := first if first.suffix == ".json" else None:
        for tensor, shard in read_weight_map(index).items():
            shards.setdefault(shard, []).append(tensor)
    else:
        shards[first.name] = []
    online = repository is not None and repository.cached is None
    if not online:
        refuse_missing(folder, sorted(shards))
    architectures = config.get("architectures")
    return StoredCheckpoint(
        source=source,
        folder=folder,
        name=source.split("/")[-1] if repository is not None else folder_name(folder),
        revision=None if repository is None else folder.name,
        config=config,
        model_type=str(config["model_type"]),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        files=HubFiles(source, folder.name, folder) if online else LocalFiles(folder),
        shards=shards,
        index=None if index is None else index.name,
        listing=listing,
    )


def _indexes(repository: Repository) -> list[str]:
    return [
        name for name in repository.names if name == "config.json" or ("/" not in name and name.endswith(_INDEX_ENDING))
    ]
