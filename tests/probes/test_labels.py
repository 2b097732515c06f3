"""Labels of probe texts: where they come from, and what is refused."""

import json
from pathlib import Path

import pytest

from moeprobe.errors import ProbeError
from moeprobe.probes.labels import LABEL_FILE
from moeprobe.probes.texts import load_documents


def test_the_built_in_texts_carry_labels() -> None:
    documents = load_documents("builtin")
    assert len(documents) == 56
    assert all(document.task for document in documents)
    assert {document.language for document in documents} == {"english", "german", "chinese", None}
    assert {d.source for d in documents if d.language is None} == {"c", "python", "structured"}
    # A task is not another word for a source: some stand in several.
    assert len({d.source for d in documents if d.task == "instructions"}) == 3


def test_labels_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tales").mkdir()
    (tmp_path / "tales/a.txt").write_text("Once upon a time.")
    (tmp_path / "tales/b.txt").write_text("Es war einmal.")
    labels = {"tales": {"language": "english", "task": "story"}, "tales/b.txt": {"language": "german"}}
    (tmp_path / LABEL_FILE).write_text(json.dumps(labels))
    found = [(d.name, d.language, d.task) for d in load_documents(str(tmp_path))]
    assert found == [("tales/a.txt", "english", "story"), ("tales/b.txt", "german", "story")]


def test_labels_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "x", "domain": "web", "language": "en", "task": 3}\n{"text": "y", "source": "s"}\n')
    found = [(d.source, d.language, d.task) for d in load_documents(str(path))]
    assert found == [("web", "en", "3"), ("s", None, None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must be an object"),
        ('{"b.txt": {}}', "labels 'b.txt', and there is no such source or file"),
        ('{"a.txt": {"tongue": "en"}}', "must be an object with texts for language or task"),
        ('{"a.txt": {"task": 3}}', "must be an object with texts for language or task"),
    ],
)
def test_bad_labels(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / LABEL_FILE).write_text(text)
    with pytest.raises(ProbeError) as error:
        load_documents(str(tmp_path))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
