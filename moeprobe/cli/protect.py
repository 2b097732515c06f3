"""What is written must not take the place of what is read: the checkpoint, texts, recipe, policy and baseline.

Refused before the analysis. A report may lie in the folder of the model, under names that no checkpoint has.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moeprobe.errors import OutputError
from moeprobe.regular_file import is_regular, read_regular

if TYPE_CHECKING:
    from moeprobe.settings import Settings

_PARTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".model", ".tiktoken",
    ".jinja", ".py",
}  # fmt: skip
_NAMES = {
    "config.json", "tokenizer.json", "vocab.json", "special_tokens_map.json", "added_tokens.json", "tekken.json",
    "vocab.txt", "merges.txt", "pyproject.toml", "moeprobe.toml",
}  # fmt: skip
_TEXTS = ("readme", "license", "licence", "notice")
_OWN = (b'"schema_version"', b"sarif", b'"moeprobe"')
_START = 1 << 26


@dataclass(frozen=True)
class Inputs:
    """What a command reads, each as the user named it.

    ``models`` are folders, saved results or hub ids; ``files`` everything else that is one file.
    """

    models: tuple[str, ...] = ()
    files: tuple[tuple[str, Path], ...] = ()
    texts: str | None = None


def inputs(models: Sequence[str], settings: "Settings | None" = None, *others: str | None) -> Inputs:
    """What a command with these models and settings reads; ``others`` are folders of tokenizers, if any."""
    files = []
    if settings is not None:
        files += [("a recipe or policy that is read", path) for path in settings.read]
        if settings.baseline is not None:
            baseline = Path(os.path.expanduser(settings.baseline))
            files.append(("the baseline", baseline / "result.json" if baseline.is_dir() else baseline))
    for model in models:
        path = Path(os.path.expanduser(model))
        if path.is_dir() and not (path / "config.json").exists():
            path = path / "result.json"
        if is_regular(path):
            files.append(("a saved result that is compared", path))
    texts = None if settings is None else settings.recipe.probe.texts
    return Inputs((*models, *(one for one in others if one)), tuple(files), texts)


def refuse_overwriting(read: Inputs, files: Sequence[Path], folders: Sequence[Path] = ()) -> None:
    """Do nothing if these files, and all within these folders, can be written without harm to what is read.

    Raises:
        OutputError: one cannot; it names the file and what it is.

    """
    for target in files:
        what = _refused(read, target)
        if what is not None:
            raise OutputError(f"Cannot write {target}: it is {what}; choose another name or folder.")
    for folder in folders:
        for what, path in _places(read):
            if _inside(path, folder):
                raise OutputError(f"Cannot write into {folder}: {what} lies there; choose another folder.")


def report_files(folder: Path, *names: str) -> tuple[list[Path], list[Path]]:
    """Files and folders of a report, as ``refuse_overwriting`` takes them."""
    return [folder / name for name in names], [folder / name for name in ("figures", "records", ".progress")]


def _refused(read: Inputs, target: Path) -> str | None:
    """What a file to be written is already, or would become; None where it does no harm."""
    for what, path in read.files:
        if _same(target, path):
            return what
    if read.texts is not None:
        texts = Path(os.path.expanduser(read.texts))
        if texts.is_dir() and _inside(target, texts):
            return "in the folder of the probe texts, where it would be read as one of them"
        if texts.exists() and _same(target, texts):
            return "the probe text"
    folders = [Path(os.path.expanduser(model)) for model in read.models]
    beside = _real(target.parent)
    if (beside / "config.json").exists() or any(_same(beside, folder) for folder in folders):
        return "a part of the checkpoint in that folder" if _belongs(target) else None
    if target.exists():
        for folder in folders:
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if file.exists() and file.samefile(target) and _belongs(file):
                    return f"the same file as {file}, a part of the checkpoint"
    return None


def _belongs(path: Path) -> bool:
    """Whether a name is one that checkpoints have, or the file holds JSON that moeprobe has not written."""
    name = path.name.lower()
    if name in _NAMES or path.suffix.lower() in _PARTS or name.startswith(_TEXTS):
        return True
    if path.suffix.lower() != ".json":
        return False
    if name.endswith((".index.json", "_config.json")):
        return True
    if not path.exists():
        return False
    try:
        start = read_regular(path, _START)[:4096]
    except OSError:
        return True
    return not any(mark in start for mark in _OWN)


def _places(read: Inputs) -> Iterator[tuple[str, Path]]:
    yield from read.files
    for model in read.models:
        yield f"the model {model}", Path(os.path.expanduser(model))
    if read.texts is not None:
        yield f"the probe {read.texts}", Path(os.path.expanduser(read.texts))


def _same(one: Path, other: Path) -> bool:
    if _real(one) == _real(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _inside(path: Path, folder: Path) -> bool:
    return _real(path).is_relative_to(_real(folder))


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a name that no file can have
        return path
