"""Which token ids a text can hold, from a loaded tokenizer and from tokenizer.json alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from moeprobe.checkpoint.ranges import LocalFiles
from moeprobe.checkpoint.token_ids import stored_ids

PIECES = {"a": 0, "b": 1, "[unused1]": 2, "reserved": 3}
ADDED = [
    {"id": 4, "content": "<eos>"},
    {"id": 5, "content": "<|reserved_special_token_0|>"},
    {"id": 6, "content": "<｜place▁holder▁no▁0｜>"},
]


def written(folder: Path, told: Any, config: dict[str, Any] | None = None) -> frozenset[int] | None:
    (folder / "tokenizer.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return stored_ids(LocalFiles(folder), config or {})


@pytest.mark.parametrize("vocab", [PIECES, [[piece, -1.0] for piece in PIECES]])
def test_reserved_tokens_are_not_reached(tmp_path: Path, vocab: Any) -> None:
    told = {"model": {"vocab": vocab}, "added_tokens": ADDED}
    assert written(tmp_path, told) == {0, 1, 3, 4}
    assert written(tmp_path, told, {"text_config": {"pad_token_id": 5}, "eos_token_id": [4, 2]}) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("told", ["{", "[]", {"model": {}}, {"model": {"vocab": {}}}, {"model": {"vocab": 3}}])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, told: Any) -> None:
    assert written(tmp_path, told) is None


def test_no_tokenizer_is_not_known(tmp_path: Path) -> None:
    assert stored_ids(LocalFiles(tmp_path), {}) is None


def test_a_loaded_tokenizer_tells_the_same(checkpoints: Path, bundled: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from moeprobe.checkpoint.token_ids import reached_ids

    for folder in (bundled, checkpoints / "mixtral"):
        loaded = reached_ids(AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder))
        raw = json.loads((folder / "config.json").read_text())
        assert loaded == stored_ids(LocalFiles(folder), raw)
