import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from moeprobe.errors import ProbeError
from moeprobe.probes.texts import Document, load_documents


def refusal(spec: object) -> str:
    with pytest.raises(ProbeError) as caught:
        load_documents(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def lines(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def test_builtin_texts() -> None:
    documents = load_documents("builtin")
    sources = {document.source for document in documents}
    assert len(sources) >= 3
    assert len(documents) >= 2 * len(sources)
    assert all(document.name.startswith(f"{document.source}/") for document in documents)
    assert not any("README" in document.name for document in documents)
    assert documents == load_documents("builtin")


def test_a_text_file_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"{number} " + "word " * 120 for number in range(7)]
    path = tmp_path / "notes.txt"
    path.write_text("\r\n\r\n".join(paragraphs), newline="")
    documents = load_documents(str(path))
    assert len(documents) == 3
    assert all(len(document.text) >= 1_000 for document in documents)
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(paragraphs)
    assert {document.source for document in documents} == {"notes"}
    assert [document.name for document in documents] == ["notes.txt#1", "notes.txt#2", "notes.txt#3"]


def test_a_short_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("\ufeffshort", encoding="utf-8")
    assert load_documents(str(path)) == [Document("short", "a", "a.md#1")]


def test_a_folder_of_sources(tmp_path: Path) -> None:
    for name in ("prose/b.txt", "prose/a.txt", "code/deep/x.py", "code/.hidden", "code/__pycache__/x.pyc"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff" if "__" in name or ".h" in name else name.encode())
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "prose" / "empty.txt").write_text(" \n")
    assert load_documents(str(tmp_path)) == [
        Document("code/deep/x.py", "code", "code/deep/x.py"),
        Document("prose/a.txt", "prose", "prose/a.txt"),
        Document("prose/b.txt", "prose", "prose/b.txt"),
    ]


def test_a_flat_folder_has_one_source_per_extension(tmp_path: Path) -> None:
    for name in ("a.txt", "b.py", "c.txt", "LICENSE"):
        (tmp_path / name).write_text(name)
    found = [(document.source, document.name) for document in load_documents(str(tmp_path))]
    assert found == [(str(tmp_path), "LICENSE"), ("txt", "a.txt"), ("py", "b.py"), ("txt", "c.txt")]


def test_jsonl(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "mix.jsonl",
        {"text": "one\u2028two", "source": "web", "label": "x"},
        "",
        {"text": "b", "domain": "law", "language": "de"},
        {"text": "c", "language": "de", "source": None},
        {"text": "d", "label": 3},
        {"text": "e"},
    )
    documents = load_documents(str(path))
    assert [document.source for document in documents] == ["web", "law", "de", "3", "mix"]
    assert documents[0].text == "one\u2028two"
    assert documents[1].name == "mix.jsonl#3"
    (tmp_path / "folder" / "law").mkdir(parents=True)
    path.rename(tmp_path / "folder" / "law" / "mix.jsonl")
    inside = load_documents(str(tmp_path / "folder"))
    assert [document.source for document in inside] == ["web", "law", "de", "3", "law"]


@pytest.mark.parametrize(
    ("row", "gist"),
    [
        ("{broken", "Line 2 of"),
        ("{broken", "is not valid JSON"),
        ({"content": "x"}, "has no text"),
        ({"text": 3}, "has no text"),
        ({"text": "  "}, "Line 2 of"),
        (["text"], "has no text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, gist: str) -> None:
    message = refusal(lines(tmp_path / "x.jsonl", {"text": "fine"}, row))
    assert gist in message
    assert "x.jsonl" in message


def test_no_such_texts() -> None:
    message = refusal("nothing-here")
    assert "no probe texts 'nothing-here'" in message
    assert "builtin" in message


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "folder"])
def test_empty_texts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_text(" \n\n")
    assert "are empty" in refusal(path)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xe9def")
    for spec in (tmp_path / "bad.txt", tmp_path):
        message = refusal(spec)
        assert "bad.txt is not UTF-8 text (byte 3)" in message


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.txt").write_text("x")
    monkeypatch.setattr(os, "read", refuse)
    assert "Permission denied" in refusal(tmp_path / "x.txt")


def test_a_hub_data_set_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install moeprobe[datasets]" in refusal("hub:org/name")


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, *, split: str, streaming: bool) -> Any:
        asked.append((name, split, streaming))
        return ({"text": f"text {number}", "language": None} for number in range(5_000))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    documents = load_documents("hub:org/name:test")
    assert asked == [("org/name", "test", True)]
    assert len(documents) == 2_000
    assert documents[1] == Document("text 1", "name", "org/name#2")
    load_documents("hub:org/name")
    assert asked[-1][1] == "train"


def test_a_hub_data_set_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_args: Any, **_options: Any) -> Any:
        raise ValueError("no such split.\nmore")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert "hub:org/name: no such split" in refusal("hub:org/name").replace("set org", "set hub:org")
    rows = types.SimpleNamespace(load_dataset=lambda *_args, **_options: iter([{"content": "x"}]))
    monkeypatch.setitem(sys.modules, "datasets", rows)
    assert "Row 1 of hub:org/name has no text" in refusal("hub:org/name")
