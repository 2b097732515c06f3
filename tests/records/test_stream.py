"""A streamed run is the run in memory, bit for bit, and reads every byte once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moeprobe.errors import StreamError
from moeprobe.records.stream import StreamedProbe
from tests.quantised import block_fp8, mxfp4
from tests.streamed import Whole, opened, token_batches
from tests.zoo.save import save
from tests.zoo.zoo import ZOO

CASES = {case.name: case for case in ZOO}
DIVERSE = ("mixtral", "qwen3_moe", "deepseek_v3", "deepseek_v4", "gpt_oss")
"""Every experts implementation is tried on these: hub layouts by expert and fused, transposed, biased, hash routers."""
MORE = ("gemma4", "nemotron_h", "inkling2", "openai_privacy_filter", "qwen3_vl_moe", "zaya", "kimi_k25", "phimoe")
"""Odd ones: sums in float32, no gate in the experts, converters that look at shapes, models within models."""
ONE_LAYER = ("llama4", "longcat_flash", "ernie4_5_vl_moe", "jetmoe")
"""Their experts cannot be read one at a time, or not by the names in the file."""


@pytest.mark.parametrize("by_expert", [False, True], ids=["layer", "expert"])
@pytest.mark.parametrize("arithmetic", ["grouped_mm", "eager"])
@pytest.mark.parametrize("name", DIVERSE)
def test_as_in_memory(name: str, arithmetic: str, by_expert: bool, tmp_path: Path) -> None:
    folder = save(CASES[name], tmp_path / "model", torch.bfloat16)
    stream = opened(folder, by_expert, arithmetic)
    assert bool(stream.experts) == by_expert
    whole = Whole(folder, arithmetic)
    assert whole.records
    assert not whole.unlike(stream)


@pytest.mark.parametrize("by_expert", [False, True], ids=["layer", "expert"])
@pytest.mark.parametrize("name", MORE)
def test_odd_families(name: str, by_expert: bool, tmp_path: Path) -> None:
    folder = save(CASES[name], tmp_path / "model", torch.bfloat16)
    stream = opened(folder, by_expert)
    assert bool(stream.experts) == by_expert
    assert not Whole(folder).unlike(stream)


@pytest.mark.parametrize("name", [name for name in ONE_LAYER if name in CASES])
def test_families_whose_experts_stay_together(name: str, tmp_path: Path) -> None:
    folder = save(CASES[name], tmp_path / "model", torch.bfloat16)
    assert not Whole(folder).unlike(opened(folder, by_expert=False))


@pytest.mark.parametrize("by_expert", [False, True], ids=["layer", "expert"])
def test_block_fp8_with_ragged_blocks(by_expert: bool, tmp_path: Path) -> None:
    folder = block_fp8(save(CASES["deepseek_v3"], tmp_path / "plain", torch.bfloat16), tmp_path / "fp8")
    assert not Whole(folder).unlike(opened(folder, by_expert))


@pytest.mark.parametrize("by_expert", [False, True], ids=["layer", "expert"])
def test_mxfp4(by_expert: bool, tmp_path: Path) -> None:
    folder = mxfp4(tmp_path / "model")
    assert not Whole(folder).unlike(opened(folder, by_expert))


@pytest.mark.parametrize("by_expert", [False, True], ids=["layer", "expert"])
def test_trained_checkpoints(by_expert: bool, checkpoints: Path, bundled: Path) -> None:
    for folder in (*(checkpoints / name for name in ("deepseek_v3", "qwen2_moe")), bundled):
        assert not Whole(folder).unlike(opened(folder, by_expert))


def test_a_difference_would_be_seen(tmp_path: Path) -> None:
    folder = save(CASES["mixtral"], tmp_path / "model", torch.bfloat16)
    whole = Whole(folder)
    whole.records[2].weights[0] *= 1 + 2**-20
    assert whole.unlike(opened(folder, False)) == ["model.layers.0.mlp.gate: weights"]


@pytest.mark.parametrize("by_expert", [False, True], ids=["layer", "expert"])
def test_every_byte_of_the_layers_is_read_once_and_the_output_head_never(by_expert: bool, tmp_path: Path) -> None:
    folder = save(CASES["qwen3_moe"], tmp_path / "model", torch.bfloat16)
    stream = opened(folder, by_expert)
    outside, layers = stream.store.bytes_read, stream.bytes_of(stream.layout.layers)
    StreamedProbe(stream, token_batches(), lambda *_: None).run()
    assert stream.store.bytes_read == outside + layers
    head = stream.model.lm_head.weight
    assert head.is_meta
    total = sum(p.nbytes for p in stream.model.parameters())
    assert stream.store.bytes_read == total - head.nbytes


def test_after_the_run_only_routers_are_in_memory(tmp_path: Path) -> None:
    stream = opened(save(CASES["deepseek_v3"], tmp_path / "model", torch.bfloat16), by_expert=True)
    before = {name for name, p in stream.model.named_parameters() if not p.is_meta}
    StreamedProbe(stream, token_batches(), lambda *_: None).run()
    after = {name for name, p in stream.model.named_parameters() if not p.is_meta}
    assert after - before
    assert all(".mlp.gate." in name for name in after - before)


def test_the_embedding_comes_back_where_it_is_used_again(tmp_path: Path) -> None:
    stream = opened(save(CASES["mixtral"], tmp_path / "model", torch.bfloat16), by_expert=False)
    embedding, ids = stream.model.get_input_embeddings(), torch.arange(9)
    before = embedding(ids)
    StreamedProbe(stream, token_batches(), lambda *_: None).run()
    assert embedding.weight.is_meta
    assert torch.equal(embedding(ids), before)


@pytest.mark.parametrize("name", ["nllb_moe", "switch_transformers", "dots3_note"])
def test_models_without_one_list_of_layers_are_refused(name: str, tmp_path: Path) -> None:
    folder = save(CASES[name], tmp_path / "model", torch.bfloat16)
    with pytest.raises(StreamError, match="cannot be streamed"):
        opened(folder, by_expert=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the system counts reads on Linux only")
def test_the_system_counts_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "benchmarks/streaming.py", "--gigabytes", "0.3", "--batches", "4", "--methods", "expert"]
    table = subprocess.run(
        [*command, "--families", "mixtral", "--folder", tmp_path],
        cwd=root, check=True, text=True, stdout=subprocess.PIPE, timeout=170,
    ).stdout  # fmt: skip
    cells = [cell.strip() for cell in table.splitlines()[-1].split("|")]
    size, read, written = float(cells[1].split()[1]), float(cells[4]), float(cells[5])
    # Some folders of the system keep no blocks on a disk, and then nothing is counted.
    assert read <= 1.05 * size + 0.1
    assert written < 0.1
