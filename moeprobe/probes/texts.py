"""Probe texts: from the built-in set, a file, a folder, JSONL or a Hub data set to documents with a source.

builtin               the texts that come with moeprobe, one source per kind of text
notes.txt             one source, cut at paragraph boundaries into documents of about 1,000 characters
texts/                each sub-folder is a source and each file a document; files directly in the folder
                      form one source per file extension; hidden files and README files are left out
texts.jsonl           one document a line: {"text": ..., "source": ...}; instead of ``source`` also
                      ``domain``, ``language`` or ``label``; ``language`` and ``task`` are kept as labels
hub:org/name[:split]  the first documents of a Hub data set with the same columns (default split: train)

A folder may hold a file ``moeprobe-labels.json`` that says language and task of its sources and files.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path
from typing import Any

from moeprobe.environment import check_endpoint
from moeprobe.errors import ProbeError
from moeprobe.json_source import JsonError, parse_json
from moeprobe.legible import legible
from moeprobe.probes.labels import LABEL_FILE, read_labels
from moeprobe.regular_file import read_regular

_SOURCE_KEYS = ("source", "domain", "language", "label")
_SHORTEST_PART = 1_000  # characters: some 250 tokens, enough for a document to count as a cluster
_DEEPEST = 100  # folders
_MOST_BYTES = 1 << 30  # of one file: thousands of times what a probe reads
_HUB_DOCUMENTS = 2_000  # rows read from a Hub data set: far more than a probe uses


@dataclass(frozen=True)
class Document:
    """One text; ``source`` is the kind of text that it stands for, ``name`` tells it from its neighbours.

    ``language`` it is written in and ``task`` that it does (tell a story, instruct, ...), where these are known.
    """

    text: str
    source: str
    name: str
    language: str | None = None
    task: str | None = None


def load_documents(spec: str) -> list[Document]:
    """Read the documents that ``spec`` names (see the top of this file), in a fixed order.

    Raises:
        ProbeError: nothing there, nothing in it, not UTF-8, or a line without text.
    """
    if spec.startswith("hub:"):
        documents = _from_hub(spec.removeprefix("hub:"))
    elif spec == "builtin":
        documents = _from_folder(files("moeprobe.probes") / "data", spec)
    else:
        path = Path(os.path.expanduser(spec))
        try:
            if path.is_dir():
                documents = _from_folder(path, spec)
            elif os.path.lexists(path):
                documents = _from_file(path, source=None)
            else:
                raise ProbeError(
                    f"There are no probe texts {spec!r}; give builtin, a text file, a folder, a JSONL file "
                    f"or hub:organisation/name."
                )
        except OSError as error:
            file = error.filename or spec
            raise ProbeError(f"Cannot read the probe texts {file}: {error.strerror}.") from error
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise ProbeError(f"The probe texts {spec} are empty; give at least one document.")
    return documents


def _from_folder(folder: Traversable, source: str) -> list[Document]:
    documents: list[Document] = []
    seen = {_place(folder)}
    for entry in _entries(folder):
        if entry.is_dir():
            for name, file in _walk(entry, entry.name, seen):
                documents += _whole_file(file, entry.name, name)
        elif entry.name != LABEL_FILE:
            documents += _whole_file(entry, Path(entry.name).suffix.lstrip(".") or source, entry.name)
    labels = folder / LABEL_FILE
    if not labels.is_file():
        return documents
    told = read_labels(_read(labels), str(labels), {name for d in documents for name in (d.source, d.name)})
    return [replace(d, **(told.get(d.source, {}) | told.get(d.name, {}))) for d in documents]


def _entries(folder: Traversable) -> list[Traversable]:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return [e for e in entries if not e.name.startswith((".", "__")) and Path(e.name).stem.upper() != "README"]


def _walk(folder: Traversable, name: str, seen: set[str], depth: int = 1) -> Iterable[tuple[str, Traversable]]:
    """The files below a folder with their paths; ``seen`` are the places of folders that were walked."""
    place = _place(folder)
    if place in seen:
        raise ProbeError(
            f"The folder of probe texts {folder} is reached twice, through a symbolic link; take that link out, or its "
            "texts would count twice."
        )
    if depth > _DEEPEST:
        raise ProbeError(f"The folder of probe texts {name} is nested more than {_DEEPEST} folders deep; make it flat.")
    seen.add(place)
    for entry in _entries(folder):
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, path, seen, depth + 1)
        else:
            yield path, entry


def _place(folder: Traversable) -> str:
    """Where a folder really lies."""
    return os.path.realpath(str(folder))


def _whole_file(file: Traversable, source: str, name: str) -> list[Document]:
    if name.endswith((".jsonl", ".ndjson")):
        return _from_lines(file, source)
    return [Document(_read(file), legible(source), legible(name))]


def _from_file(path: Path, source: str | None) -> list[Document]:
    source = source or legible(path.stem)
    if path.suffix in (".jsonl", ".ndjson"):
        return _from_lines(path, source)
    return [
        Document(part, source, f"{legible(path.name)}#{number}")
        for number, part in enumerate(_split(_read(path)), start=1)
    ]


def _split(text: str) -> list[str]:
    """Cut at blank lines into parts of at least ``_SHORTEST_PART`` characters; a rest joins the last."""
    parts: list[str] = []
    current = ""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        current = f"{current}\n\n{paragraph}" if current else paragraph
        if len(current) >= _SHORTEST_PART:
            parts.append(current)
            current = ""
    if current.strip() and parts:
        parts[-1] = f"{parts[-1]}\n\n{current}"
    elif current.strip():
        parts.append(current)
    return parts


def _from_lines(file: Traversable, source: str) -> list[Document]:
    documents = []
    # Not splitlines(): JSON strings may hold characters that it takes for line ends.
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {file}"
        try:
            row = parse_json(line)
        except JsonError as error:
            raise ProbeError(
                f"{where} cannot be used: {error}; every line must be a JSON object with a text."
            ) from error
        documents.append(_from_row(row, where, legible(source), f"{legible(file.name)}#{number}"))
    return documents


def _from_row(row: Any, where: str, source: str, name: str) -> Document:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ProbeError(f'{where} has no text; every document needs a non-empty "text".')
    given = next((str(row[key]) for key in _SOURCE_KEYS if row.get(key) is not None), source)
    language, task = (None if row.get(key) is None else str(row[key]) for key in ("language", "task"))
    return Document(text, given, name, language, task)


def _from_hub(spec: str) -> list[Document]:
    name, _, split = spec.partition(":")
    check_endpoint()
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ProbeError(
            f"The Hub data set {name} needs the datasets package; run `pip install moeprobe[datasets]`."
        ) from error
    try:
        rows = list(islice(load_dataset(name, split=split or "train", streaming=True), _HUB_DOCUMENTS))
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ProbeError(f"Cannot read the Hub data set {spec}: {line}.") from error
    return [
        _from_row(row, f"Row {number} of hub:{spec}", name.rsplit("/", 1)[-1], f"{name}#{number}")
        for number, row in enumerate(rows, start=1)
    ]


def _read(file: Traversable) -> str:
    raw = read_regular(file, _MOST_BYTES) if isinstance(file, Path) else file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProbeError(f"{file} is not UTF-8 text (byte {error.start}); convert it or leave it out.") from error
