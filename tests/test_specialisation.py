"""The chapter on trained checkpoints, through the whole pipeline."""

from pathlib import Path

import pytest
import torch

from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.findings.result import Result
from moeprobe.findings.specialisation import Answer
from moeprobe.pipeline import analyze
from moeprobe.recipe import load_recipe
from moeprobe.reporting.formats import render
from moeprobe.reporting.markdown import write
from moeprobe.reporting.report import report
from tests.commandline import Moeprobe

TOKENS = 12_000


def answers(result: Result) -> dict[str, Answer]:
    assert result.evidence.specialisation is not None
    return {answer.question: answer for answer in result.evidence.specialisation.answers}


@pytest.fixture(scope="module")
def hashed(bundled: Path) -> Result:
    return analyze(bundled, recipe="specialisation", max_tokens=TOKENS)


def test_hash_layers_are_total_and_learned_ones_are_not(hashed: Result) -> None:
    for one in hashed.evidence.routers:
        found = one.specialisation.information["token id"]
        assert found.total == (one.router.kind == "hash")
        assert found.beyond_chance
        if one.router.kind == "hash":
            assert found.of_possible == pytest.approx(1)
        else:
            assert 0.1 < found.of_possible < 0.9
    answer = answers(hashed)["token id"]
    assert answer.verdict == "yes"
    assert "in the 2 hash layers it is total: a fixed table looks the experts up by the token id" in answer.sentence
    assert all(one.verdict != "not answered" for one in answers(hashed).values())


def test_the_chapter(hashed: Result) -> None:
    text = write(report(hashed))
    assert text.index("## The model at a glance") < text.index("## What the experts do") < text.index("## Evidence")
    for heading in (
        "Kinds of text", "Single tokens", "Experts that work together", "Consecutive tokens",
        "Room for tokens: capacity and drops", "Balance, as training sees it", "Experts on several devices",
    ):  # fmt: skip
        assert f"### {heading}\n" in text
    for figure in ("specialisation", "sources", "drops"):
        assert f"(figures/{figure}.svg)" in text
    assert "This is a simulation" in text
    assert "does drop tokens" not in text
    assert "**Token id: yes.**" in text
    assert "NaN" not in text
    assert "What the experts do" in render(hashed, "html")


def test_a_result_survives_its_file(hashed: Result, tmp_path: Path) -> None:
    assert Result.load(hashed.save(tmp_path / "result.json")).evidence == hashed.evidence


def test_other_recipes_do_without(moeprobe: Moeprobe, checkpoints: Path) -> None:
    outcome = moeprobe("analyze", checkpoints / "mixtral", "--recipe", "quick", "--max-tokens", "1500", "-o", "out")
    assert outcome.code == 0, outcome.err
    result = Result.load("out/result.json")
    assert result.evidence.specialisation is None
    assert all(one.specialisation is None for one in result.evidence.routers)
    assert "What the experts do" not in Path("out/report.md").read_text()


@pytest.mark.parametrize("shuffled", [False, True])
def test_choices_shuffled_over_the_tokens_show_no_specialisation(checkpoints: Path, shuffled: bool) -> None:
    """The router sees the rows of its input in random order: same loads, but nobody's experts are his own."""
    checkpoint = open_checkpoint(checkpoints / "mixtral")
    model, tokenizer = load_model(checkpoint).model, load_tokenizer(checkpoint)
    generator = torch.Generator().manual_seed(0)

    def shuffle(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        rows = args[0].reshape(-1, args[0].shape[-1])
        return (rows[torch.randperm(len(rows), generator=generator)].reshape(args[0].shape), *args[1:])

    for module in model.modules():
        if shuffled and type(module).__name__ == "MixtralTopKRouter":
            module.register_forward_pre_hook(shuffle)
    recipe = load_recipe("specialisation")
    # One batch: batches hold texts of like length, and those are of like kinds.
    probe = recipe.probe.model_copy(update={"batch_tokens": 10**6, "max_tokens": TOKENS})
    found = answers(analyze(model, tokenizer=tokenizer, recipe=recipe.model_copy(update={"probe": probe})))
    verdicts = {question: answer.verdict for question, answer in found.items()}
    if shuffled:
        assert set(verdicts.values()) == {"no"}
    else:
        assert [verdicts[q] for q in ("token id", "source", "language", "task")] == ["yes"] * 4


def test_one_label_and_one_document(moeprobe: Moeprobe, checkpoints: Path) -> None:
    Path("one.txt").write_text("A single short text about nothing in particular.\n" * 3)
    recipe = ("--recipe", "specialisation", "-o", "out")
    outcome = moeprobe("analyze", checkpoints / "mixtral", "--probe", "one.txt", *recipe)
    assert outcome.code == 0, outcome.err
    for answer in answers(Result.load("out/result.json")).values():
        assert answer.verdict == "not answered"
        assert answer.sentence == "only one document was read; at least 12 are needed"
    assert "**Source: not answered:** only one document" in Path("out/report.md").read_text()
    lines = [f'{{"text": "{"word " * 100}{place}", "task": "count"}}\n' for place in range(14)]
    Path("same.jsonl").write_text("".join(lines))
    outcome = moeprobe("analyze", checkpoints / "mixtral", "--probe", "same.jsonl", *recipe)
    assert outcome.code == 0, outcome.err
    found = answers(Result.load("out/result.json"))
    assert found["source"].sentence.startswith("all 14 labelled documents have the same source (same)")
    assert found["language"].sentence.startswith("no document says its language")
    assert found["task"].sentence.startswith("all 14 labelled documents have the same task (count)")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("devices: [1]", "specialisation.devices.0: input should be greater than or equal to 2"),
        ("capacity_factors: [0]", "specialisation.capacity_factors.0: input should be greater than 0"),
        ("capacity_factor: [1]", "capacity_factor is not a known key (did you mean 'capacity_factors'?)"),
        ("token_occurrences: 1", "specialisation.token_occurrences: input should be greater than or equal to 2"),
    ],
)
def test_bad_settings(moeprobe: Moeprobe, setting: str, words: str) -> None:
    Path("own.yaml").write_text(f"name: own\nspecialisation:\n  {setting}\n")
    outcome = moeprobe("recipe", "validate", "own.yaml")
    assert outcome.code == 2
    assert words in outcome.err
