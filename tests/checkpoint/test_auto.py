"""Every kind of checkpoint that reads text is analysed without an option: the class is found, the inputs are made."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import nn

import moeprobe
from moeprobe.checkpoint.load import embedding_shape, load_model
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.experiments.loss import token_losses
from moeprobe.findings.result import Result
from moeprobe.probes.batches import Batch
from moeprobe.records.record import Record
from moeprobe.records.run import probe_recording, run_probe
from tests.commandline import Moeprobe
from tests.zoo import composite, modalities, odd
from tests.zoo.case import Case, batch, build
from tests.zoo.save import save, tokenizer

CASES = {case.name: case for case in (*composite.CASES, *modalities.CASES, *odd.CASES)}
KINDS = {
    "causal": "qwen3_5_moe:text",
    "image-text": "gemma4",
    "image-text with vision experts": "dots3_note",
    "speech": "nemo_speechlm",
    "seq2seq": "switch_transformers",
    "token classification": "openai_privacy_filter",
    "canvas": "diffusion_gemma",
}
CANVAS = "the model fills a canvas; it does not predict the next token"

Saved = Callable[[Case], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Each case once, not to be changed."""
    done: dict[str, Path] = {}

    def folder(case: Case) -> Path:
        if case.name not in done:
            done[case.name] = save(case, tmp_path_factory.mktemp("zoo") / "model")
        return done[case.name]

    return folder


def bare(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def why(result: Result) -> dict[str, str]:
    return {one.what: one.why for one in result.not_checked}


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_the_class_that_saved_the_weights_reads_text(name: str, saved: Saved) -> None:
    case = CASES[name]
    result = moeprobe.analyze(saved(case), recipe="quick", max_tokens=1500)
    assert result.model.architecture == type(build(case)).__name__
    seen = {one.router.path: one.activations for one in result.evidence.routers if one.router.verified}
    assert len(seen) == case.sites
    assert all(activations is not None and activations.tokens > 1000 for activations in seen.values())
    unreached = [what for what in why(result) if not what.startswith("loss test")]
    assert len(unreached) == case.silent


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_the_command_line_needs_no_option(name: str, saved: Saved, moeprobe: Moeprobe) -> None:
    folder = saved(CASES[name])
    done = moeprobe("analyze", folder, "--recipe", "quick", "--max-tokens", "1500", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "report.md" in done.out
    done = moeprobe("routers", folder)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("name", "size", "choice"),
    [
        ("gemma4", None, None),
        ("nemotron_h_omni", None, None),
        ("openai_privacy_filter", *["OpenAIPrivacyFilterForTokenClassification does not predict tokens"] * 2),
        ("diffusion_gemma", CANVAS, CANVAS),
        (
            "switch_transformers",
            "an encoder-decoder was not trained to repeat its input, so the size that does it best says nothing",
            None,
        ),
    ],
)
def test_loss_tests_run_where_there_is_a_loss(name: str, size: str | None, choice: str | None, saved: Saved) -> None:
    result = moeprobe.analyze(saved(CASES[name]), recipe="full", max_tokens=300)
    reasons = why(result)
    assert reasons.get("loss test of the routed branch") == size
    assert reasons.get("loss test of the learned choice") == choice
    assert bool(result.evidence.experiments.scale) == (size is None)
    assert (result.evidence.experiments.loss is not None) == (choice is None)


def _records(name: str, saved: Saved) -> tuple[list[Record], Batch]:
    ids, mask = batch()
    counted = mask.bool().clone()
    counted[:, 0] = False
    one = Batch(ids, mask, counted, [4, 7, 9], ["a", "b", "c"])
    model = load_model(open_checkpoint(saved(CASES[name]))).model
    records: list[Record] = []
    recording = probe_recording(model, records.append)
    run_probe(recording, [(0, one)])
    assert recording.failure is None
    return records, one


def test_a_decoder_sees_the_text_one_token_behind(saved: Saved) -> None:
    records, one = _records("switch_transformers", saved)
    counted, documents = one.counted, torch.tensor(one.documents)[:, None].expand_as(one.counted)
    for record in records:
        if record.router.path.startswith("encoder"):
            assert torch.equal(record.token_ids, one.input_ids[counted])
            assert torch.equal(record.documents, documents[counted])
        else:
            assert torch.equal(record.token_ids, one.input_ids[:, :-1][counted[:, :-1]])
            assert torch.equal(record.documents, documents[:, :-1][counted[:, :-1]])
            assert torch.equal(record.positions, counted[:, :-1].nonzero()[:, 1] + 1)
    assert {record.router.path.partition(".")[0] for record in records} == {"encoder", "decoder"}


def test_a_canvas_holds_the_text(saved: Saved) -> None:
    records, one = _records("diffusion_gemma", saved)
    assert len(records) == 6
    assert all(torch.equal(record.token_ids, one.input_ids[one.counted]) for record in records)


@pytest.mark.parametrize("name", ["switch_transformers", "nllb_moe"])
def test_the_loss_of_a_decoder_is_the_models_own(name: str) -> None:
    model = build(CASES[name])
    ids, _ = batch()
    everything = torch.ones_like(ids)
    mine = token_losses(model, [Batch(ids, everything, everything.bool(), [0, 1, 2], ["a", "b", "c"])])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=everything, labels=ids).logits
    theirs = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    assert torch.equal(mine.nats, theirs.double())


def test_a_model_without_a_head_is_read_without_a_loss(tmp_path: Path) -> None:
    folder = bare(build(CASES["aria:text"]).model, tmp_path)
    result = moeprobe.analyze(folder, recipe="full", max_tokens=300)
    assert result.model.architecture == "AriaTextModel"
    assert why(result)["loss test of the learned choice"] == "AriaTextModel does not predict tokens"


def test_a_classifier_keeps_its_head(tmp_path: Path) -> None:
    text = {name: value for name, value in composite.TEXT.items() if name != "max_position_embeddings"}
    bare(hf.MixtralForSequenceClassification(hf.MixtralConfig(**text, num_local_experts=8, num_labels=2)), tmp_path)
    assert type(load_model(open_checkpoint(tmp_path)).model).__name__ == "MixtralForSequenceClassification"


def test_of_models_joined_to_speak_the_one_that_reads(tmp_path: Path) -> None:
    thinker = CASES["qwen3_omni_moe"].build().config.to_dict()
    talker = CASES["qwen3_omni_moe:talker"].build().config.to_dict()
    waves = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    waves |= {"intermediate_size": 16, "decoder_dim": 64, "codebook_size": 16, "num_quantizers": 2}
    config = hf.Qwen3OmniMoeConfig(thinker_config=thinker, talker_config=talker, code2wav_config=waves)
    bare(hf.Qwen3OmniMoeForConditionalGeneration(config), tmp_path)
    result = moeprobe.analyze(tmp_path, recipe="quick", max_tokens=300)
    assert result.model.architecture == "Qwen3OmniMoeThinkerForConditionalGeneration"
    assert len(result.evidence.routers) == 3
    assert all(one.router.verified for one in result.evidence.routers)
    left_out = [what for what, reason in why(result).items() if "does not read text" in reason]
    assert left_out == ["talker", "code2wav"]


@pytest.mark.parametrize("architectures", [None, ["NobodyKnowsThis"]])
def test_without_a_known_architecture_the_first_language_model(architectures: list[str] | None, tmp_path: Path) -> None:
    save(CASES["aria"], tmp_path)
    edit_config(tmp_path, architectures=architectures)
    assert type(load_model(open_checkpoint(tmp_path)).model).__name__ == "AriaForConditionalGeneration"


def test_a_forward_pass_that_lacks_something_is_told(tmp_path: Path) -> None:
    save(CASES["qwen3_omni_moe"], tmp_path)
    edit_config(tmp_path, vision_start_token_id=None)
    result = moeprobe.analyze(tmp_path, recipe="quick", max_tokens=300)
    assert "vision_start_token_id" in why(result)["everything that needs a forward pass"]


def test_the_size_of_a_hidden_embedding_stands_in_the_config() -> None:
    def hidden() -> nn.Module:
        raise NotImplementedError

    text = SimpleNamespace(vocab_size=320, hidden_size=32)
    model = SimpleNamespace(get_input_embeddings=hidden, config=SimpleNamespace(get_text_config=lambda: text))
    assert embedding_shape(model) == (320, 32)  # type: ignore[arg-type]
