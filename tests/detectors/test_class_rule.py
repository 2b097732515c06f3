"""What transformers' own class fixes and no config names: planted in trained checkpoints, and harmless twins."""

import random
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

import moeprobe
from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.detectors import broken_contract as bc
from moeprobe.detectors import lost_norm
from moeprobe.detectors import scale_mismatch as sm
from moeprobe.findings.result import Result
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.released import released_norm

Score = Callable[[Tensor], Tensor]
DETECTORS = ["broken-contract", "scale-mismatch"]


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)


def sqrtsoftplus(logits: Tensor) -> Tensor:
    return nn.functional.softplus(logits).sqrt()


def routed(router: Any, hidden: Tensor, choice: Score, weight: Score) -> tuple[Tensor, Tensor, Tensor]:
    """DeepSeek-V3's router with these functions instead of the sigmoid."""
    logits = nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]).float(), router.weight.float())
    ranked = choice(logits) + router.e_score_correction_bias
    by_group = ranked.unflatten(-1, (router.num_group, -1))
    kept = by_group.topk(2, dim=-1).values.sum(dim=-1).topk(router.topk_group, dim=-1).indices
    out = torch.ones_like(by_group[..., 0], dtype=torch.bool).scatter(1, kept, False).unsqueeze(-1)
    experts = by_group.masked_fill(out, float("-inf")).flatten(1).topk(router.top_k, dim=-1).indices
    weights = weight(logits).gather(1, experts)
    if router.norm_topk_prob:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return logits, weights * router.routed_scaling_factor, experts


def with_scores(choice: Score, weight: Score) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        site.router.forward = MethodType(lambda self, hidden: routed(self, hidden, choice, weight), site.router)  # type: ignore[method-assign]

    return plant


class OwnRouter(nn.Module):
    """A router of somebody else's code, with the tensors of DeepSeek-V3's."""

    def __init__(self, like: nn.Module, score: Score) -> None:
        super().__init__()
        self.__dict__.update({k: v for k, v in vars(like).items() if k not in ("forward",)})
        self.score = score

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return routed(self, hidden, self.score, self.score)


def analysed(path: Path, plant: Callable[[nn.Module], None], dtype: str = "float32", **options: Any) -> Result:
    checkpoint = open_checkpoint(path)
    model = load_model(checkpoint, dtype=dtype).model
    assert not hasattr(model.config, "scoring_func")
    with torch.no_grad():
        plant(model)
    settings = {"recipe": "quick", "max_tokens": 2048, "select": DETECTORS} | options
    return moeprobe.analyze(model, tokenizer=load_tokenizer(checkpoint), **settings)


def problems(result: Result) -> list[tuple[str, str]]:
    return [(found.severity, found.cause) for found in result.problems]


def everywhere(change: Callable[[Site], None]) -> Callable[[nn.Module], None]:
    def plant(model: nn.Module) -> None:
        for site in find_sites(model):
            change(site)

    return plant


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_softmax_for_the_sigmoid_in_every_layer(dtype: str, checkpoints: Path) -> None:
    result = analysed(checkpoints / "deepseek_v3", everywhere(with_scores(softmax, softmax)), dtype)
    assert problems(result) == [("error", bc.OTHER_FUNCTION)]
    (found,) = result.problems
    assert "softmax, although transformers' own DeepseekV3TopkRouter follows sigmoid" in found.message


def test_the_class_itself_was_changed(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeepseekV3TopkRouter, "forward", lambda self, hidden: routed(self, hidden, softmax, softmax))
    result = analysed(checkpoints / "deepseek_v3", lambda _model: None)
    assert problems(result) == [("error", bc.OTHER_FUNCTION)]


def test_a_router_of_other_code_in_its_place(checkpoints: Path) -> None:
    def plant(score: Score) -> Callable[[nn.Module], None]:
        def change(model: nn.Module) -> None:
            for site in find_sites(model):
                assert site.block is not None
                site.block.gate = OwnRouter(site.router, score)

        return change

    result = analysed(checkpoints / "deepseek_v3", plant(softmax))
    assert problems(result) == [("error", bc.OTHER_FUNCTION)]
    assert problems(analysed(checkpoints / "deepseek_v3", plant(torch.sigmoid))) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("choice", "weight", "cause", "said"),
    [
        (softmax, torch.sigmoid, bc.MIXED_SCORES, "chosen by softmax scores and weighted by sigmoid scores"),
        (sqrtsoftplus, torch.sigmoid, bc.MIXED_SCORES, "chosen by sqrtsoftplus scores and weighted by sigmoid"),
        (torch.sigmoid, softmax, bc.OTHER_FUNCTION, "softmax and the experts are chosen by sigmoid"),
    ],
)
def test_indices_of_one_score_and_weights_of_another(
    choice: Score, weight: Score, cause: str, said: str, dtype: str, seed: int, checkpoints: Path
) -> None:
    drawn = random.Random(seed)
    hit: list[int | None] = []

    def plant(model: nn.Module) -> None:
        site = drawn.choice(find_sites(model))
        with_scores(choice, weight)(site)
        hit.append(site.layer)

    result = analysed(checkpoints / "deepseek_v3", plant, dtype, select=["broken-contract"])
    (found,) = result.problems
    assert (found.severity, found.cause, found.layer) == ("error", cause, hit[0])
    assert said in found.message


def test_mixed_scores_in_every_layer_are_one_finding_that_others_follow(checkpoints: Path) -> None:
    result = analysed(checkpoints / "deepseek_v3", everywhere(with_scores(softmax, torch.sigmoid)))
    assert [found.cause for found in result.problems] == [bc.MIXED_SCORES]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_rule_in_other_code_is_silent(dtype: str, checkpoints: Path) -> None:
    result = analysed(checkpoints / "deepseek_v3", everywhere(with_scores(torch.sigmoid, torch.sigmoid)), dtype)
    assert problems(result) == []


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3"])
def test_renormalised_although_the_config_forbids_it(family: str, checkpoints: Path) -> None:
    def plant(model: nn.Module) -> None:
        for site in find_sites(model):
            site.router.norm_topk_prob = True
        model.config.norm_topk_prob = False

    result = analysed(checkpoints / family, plant)
    assert problems(result) == [("error", sm.NORMALISED)]


def test_weights_that_the_class_always_renormalises(checkpoints: Path) -> None:
    """Mixtral's config has no flag; its class divides by the sum."""

    def plant(model: nn.Module) -> None:
        for site in find_sites(model):
            forward = site.router.forward

            def raw(*args: Any, forward: Any = forward) -> tuple[Tensor, Tensor, Tensor]:
                logits, _, experts = forward(*args)
                return logits, logits.float().softmax(dim=-1).gather(1, experts), experts

            site.router.forward = raw  # type: ignore[method-assign]

    result = analysed(checkpoints / "mixtral", plant)
    assert problems(result) == [("error", sm.UNNORMALISED)]
    assert "transformers' own MixtralTopKRouter" in result.problems[0].message


def test_a_flag_that_the_class_ignores_is_only_mentioned(bundled: Path) -> None:
    def plant(model: nn.Module) -> None:
        model.config.norm_topk_prob = False

    checkpoint = open_checkpoint(bundled)
    model = load_model(checkpoint, dtype="float32").model
    plant(model)
    result = moeprobe.analyze(
        model, tokenizer=load_tokenizer(checkpoint), recipe="quick", max_tokens=2048, select=DETECTORS
    )
    assert result.problems == []
    assert {found.cause for found in result.findings} == {sm.NORMALISED}


def test_groups_and_bias_that_the_class_asks_for(checkpoints: Path) -> None:
    def ungrouped(site: Site) -> None:
        def forward(self: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]).float(), self.weight.float())
            experts = logits.sigmoid().topk(self.top_k, dim=-1).indices
            weights = logits.sigmoid().gather(1, experts)
            weights = weights / weights.sum(dim=-1, keepdim=True) * self.routed_scaling_factor
            return logits, weights, experts

        site.router.forward = MethodType(forward, site.router)  # type: ignore[method-assign]

    result = analysed(checkpoints / "deepseek_v3", everywhere(ungrouped))
    assert problems(result) == [("error", bc.BIAS_UNUSED)]


def without_norm(model: nn.Module) -> None:
    for site in find_sites(model):
        site.router.norm_topk_prob = False
    model.config.norm_topk_prob = False


@pytest.mark.parametrize("recipe", ["quick", "full"])
def test_a_config_that_lost_the_norm_of_its_family(recipe: str, checkpoints: Path) -> None:
    """Code and config agree, and the loss is least at 1.59, inside the healthy limits."""
    options = {"recipe": recipe, "select": ["scale-mismatch"], "max_tokens": 4096}
    result = analysed(checkpoints / "qwen3_moe", without_norm, **options)
    assert problems(result) == [("warning", lost_norm.LOST_NORM)]
    assert "GGUF" in result.problems[0].message
    assert problems(analysed(checkpoints / "qwen3_moe", lambda _model: None, **options)) == []


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_families_without_such_a_norm_are_silent(family: str, checkpoints: Path) -> None:
    assert problems(analysed(checkpoints / family, lambda _model: None, select=["scale-mismatch"])) == []


def test_a_lost_norm_that_the_loss_shows_as_well_is_one_finding(checkpoints: Path) -> None:
    result = analysed(
        checkpoints / "deepseek_v3", without_norm, recipe="full", select=["scale-mismatch"], max_tokens=8192
    )
    assert problems(result) == [("error", sm.TOO_LARGE)]
    assert "the default of transformers' DeepseekV3Config" in result.problems[0].message


@pytest.mark.parametrize(
    ("name", "renormalises"),
    [
        ("qwen3_moe", True),
        ("qwen3_next", True),
        ("deepseek_v3", True),
        ("glm4_moe", True),
        ("deepseek_v2", False),
        ("qwen2_moe", False),
        ("olmoe", False),
        ("mixtral", False),
    ],
)
def test_what_transformers_says_of_released_configs(name: str, renormalises: bool) -> None:
    assert (released_norm(AutoConfig.for_model(name)) is not None) == renormalises
