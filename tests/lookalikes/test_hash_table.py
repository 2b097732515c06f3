"""Hash tables end to end: what no text reaches is an info, also where the vocabulary was resized."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from moeprobe.detectors import hash_table
from moeprobe.findings.result import Result
from moeprobe.pipeline import analyze

VOCABULARY = 2048
TOKENS: dict[str, Any] = {"max_tokens": 1500, "select": ["hash-boundary"]}


def of_tables(result: Result) -> set[tuple[str, str]]:
    return {(found.severity, found.cause) for found in result.findings if "hash table" in found.cause}


@pytest.fixture
def resized(bundled: Path) -> Callable[[int, int], Result]:
    """Analyse the bundled model with a larger embedding, of whose new ids the tokenizer knows some."""

    def run(rows: int, known: int) -> Result:
        model = AutoModelForCausalLM.from_pretrained(bundled).eval()
        tokenizer = AutoTokenizer.from_pretrained(bundled)
        if known:
            tokenizer.add_tokens([f"newtoken{index}" for index in range(known)])
        model.resize_token_embeddings(VOCABULARY + rows)
        return analyze(model, tokenizer=tokenizer, recipe="quick", **TOKENS)

    return run


def test_new_token_ids_without_a_row_are_an_error(resized: Callable[[int, int], Result]) -> None:
    result = resized(8, 3)
    assert of_tables(result) == {("error", hash_table.ROWS)}
    assert "3 token ids that the tokenizer gives have no row" in result.problems[0].message
    assert "extend tid2eid too" in result.problems[0].remedy


def test_a_padded_embedding_is_an_info(resized: Callable[[int, int], Result]) -> None:
    result = resized(8, 0)
    assert result.problems == []
    assert of_tables(result) == {("info", hash_table.ROWS)}


def zeroed(source: Path, target: Path, rows: int, drop: int, tokenizer: bool = True) -> Path:
    """The checkpoint with the last rows of its first table zero, and without that many entries of its tokenizer."""
    shutil.copytree(source, target)
    tensors: dict[str, Tensor] = load_file(target / "model.safetensors")
    name = min(name for name in tensors if name.endswith("tid2eid"))
    tensors[name][-rows:] = 0
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    told = json.loads((target / "tokenizer.json").read_text())
    vocab = told["model"]["vocab"]
    told["model"]["vocab"] = {piece: index for piece, index in vocab.items() if index < VOCABULARY - drop}
    kept = set(told["model"]["vocab"])
    told["model"]["merges"] = [pair for pair in told["model"]["merges"] if "".join(pair) in kept]
    (target / "tokenizer.json").write_text(json.dumps(told))
    if not tokenizer:
        (target / "tokenizer.json").unlink()
    return target


@pytest.mark.parametrize("weights_only", [True, False])
def test_zero_rows_beyond_the_tokenizer_are_an_info(bundled: Path, tmp_path: Path, weights_only: bool) -> None:
    options: dict[str, Any] = {"weights_only": True} if weights_only else TOKENS | {"recipe": "quick"}
    sound = analyze(zeroed(bundled, tmp_path / "sound", 20, 20), **options)
    assert sound.problems == []
    assert of_tables(sound) == {("info", hash_table.SPARE)}
    assert "20 rows of tid2eid are damaged" in next(f for f in sound.findings if f.cause == hash_table.SPARE).message
    reached = analyze(zeroed(bundled, tmp_path / "reached", 21, 20), **options)
    assert {("error", hash_table.REPEATS), ("info", hash_table.SPARE)} <= of_tables(reached)


def test_without_a_tokenizer_every_row_counts(bundled: Path, tmp_path: Path) -> None:
    result = analyze(zeroed(bundled, tmp_path / "m", 20, 20, tokenizer=False), weights_only=True)
    (found,) = result.problems
    assert (found.severity, found.cause) == ("error", hash_table.REPEATS)
    assert "the tokenizer gives is not known, so every row counts" in found.message


def test_the_resized_model_is_the_one_that_fails(bundled: Path) -> None:
    """What the error says: a text with a new id stops the forward pass."""
    model = AutoModelForCausalLM.from_pretrained(bundled).eval()
    model.resize_token_embeddings(VOCABULARY + 8)
    with pytest.raises(IndexError), torch.no_grad():
        model(input_ids=torch.tensor([[VOCABULARY]]))
