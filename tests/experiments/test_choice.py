"""The choice test: padding and dropped slots stay, the model is left as it was, the numbers are right."""

import pytest
import torch
from torch import nn

from moeprobe.experiments.choice import RandomChoice, choice_test
from moeprobe.experiments.loss import document_losses, token_losses
from moeprobe.experiments.paired import interval, paired, share, student
from moeprobe.experiments.run import run_experiments
from moeprobe.findings.evidence import ChoiceTest
from moeprobe.probes.batches import make_batches
from moeprobe.probes.texts import load_documents
from moeprobe.recipe import ChoiceRecipe, ProbeRecipe, Recipe, ScaleRecipe
from moeprobe.records.recorder import record
from moeprobe.routers.find import find_sites
from tests.families import build

from .test_experiments import batches

SOURCES = ["a", "b"] * 3


def worth(model: nn.Module) -> ChoiceTest | None:
    made = batches()
    with record(model) as recording, torch.no_grad():
        model(input_ids=made[0].input_ids, attention_mask=made[0].attention_mask)
    site = find_sites(model)[-1]
    router = next(router for router in recording.routers if router.path == site.path)
    return choice_test(model, site, router, made, SOURCES, token_losses(model, made), repetitions=2)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss", "deepseek_v4"])
def test_the_model_is_left_bit_identical(family: str) -> None:
    model = build(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    baseline = token_losses(model, batches())
    found = worth(model)
    assert found is not None
    assert found.stir > 0
    assert found.rise.low < found.rise.value < found.rise.high
    assert found == worth(model)  # fixed seeds
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(token_losses(model, batches()).nats, baseline.nats)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_come_off_after_an_exception() -> None:
    model = build("mixtral")

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = model.lm_head.register_forward_hook(fail)
    site = find_sites(model)[0]
    with pytest.raises(RuntimeError, match="out of memory"), RandomChoice(model, site.experts, 8, 0):
        model(input_ids=batches()[0].input_ids)
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def given(model: nn.Module, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts and weights that reach the experts of the last layer."""
    site, seen, batch = find_sites(model)[-1], [], batches()[0]
    with RandomChoice(model, site.experts, 8, seed) as hooked:
        look = site.experts.register_forward_pre_hook(lambda _module, args: seen.append(args[1:3]))
        with torch.no_grad():
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        look.remove()
    assert hooked.replaced == 1
    return seen[0]


def test_padding_and_weights_stay_and_experts_are_distinct() -> None:
    model, batch = build("mixtral"), batches()[0]
    with torch.no_grad():
        seen = []
        look = find_sites(model)[-1].experts.register_forward_pre_hook(lambda _m, args: seen.append(args[1:3]))
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        look.remove()
    chosen, weights = given(model, 0)
    padding = batch.attention_mask.reshape(-1) == 0
    assert torch.equal(chosen[padding], seen[0][0][padding])
    assert torch.equal(weights, seen[0][1])
    assert (chosen[:, 0] != chosen[:, 1]).all()
    assert not torch.equal(chosen[~padding], seen[0][0][~padding])
    assert not torch.equal(chosen, given(model, 1)[0])


class Sparse(nn.Module):
    """Experts that are called by keyword, with dropped slots (-1) and a zero expert (8)."""

    def forward(self, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        assert top_k_weights.shape == top_k_index.shape
        self.seen = top_k_index
        return hidden


def test_slots_without_an_expert_stay() -> None:
    experts = Sparse()
    chosen = torch.tensor([[0, -1], [8, 3], [1, 2]], dtype=torch.int32)
    with RandomChoice(experts, experts, 8, 3):
        experts(torch.zeros(3, 4), top_k_index=chosen, top_k_weights=torch.ones(3, 2))
    assert experts.seen.dtype == torch.int32
    assert experts.seen[0, 1] == -1
    assert experts.seen[1, 0] == 8
    with RandomChoice(experts, experts, 2, 3) as all_of_them:  # k = E: there is nothing to choose
        experts(torch.zeros(3, 4), top_k_index=chosen, top_k_weights=torch.ones(3, 2))
    assert all_of_them.replaced == 0
    assert experts.seen is chosen


def test_student_and_intervals() -> None:
    for freedom, value in ((7, 3.499), (10, 3.169), (31, 2.744), (55, 2.668)):
        assert student(freedom) == pytest.approx(value, rel=3e-3)
    assert student(0) == float("inf")
    assert interval(1.0, 0.0, 8) == (1.0, 1.0)


def test_the_share_of_the_branch() -> None:
    model = build("mixtral")
    base = document_losses(model, batches(), 6)

    def shifted(by: float) -> object:
        return type(base)(base.nats + by * base.tokens, base.tokens)

    assert paired(shifted(0.5), base) == pytest.approx((0.5, 0.0))
    assert share(shifted(0.1), shifted(0.5), base) == pytest.approx((0.2, 0.2, 0.2))
    assert share(shifted(0.1), shifted(-0.5), base) is None


@pytest.fixture(scope="module")
def small(checkpoints):
    from moeprobe.checkpoint.load import load_model, load_tokenizer
    from moeprobe.checkpoint.open import open_checkpoint

    checkpoint = open_checkpoint(checkpoints / "qwen3_moe")
    return load_model(checkpoint, dtype="float32").model, load_tokenizer(checkpoint)


def test_a_permuted_gate_is_worth_nothing_and_a_healthy_one_is(small) -> None:
    model, tokenizer = small
    made = make_batches(load_documents("builtin"), tokenizer, ProbeRecipe(max_tokens=8192, max_length=128))
    with record(model) as recording, torch.no_grad():
        model(input_ids=made.batches[0].input_ids)
    recipe = Recipe(name="test", scale=ScaleRecipe(max_tokens=0), choice=ChoiceRecipe())

    def run(**budget: int) -> dict[int, ChoiceTest]:
        asked = recipe.model_copy(update={"choice": ChoiceRecipe(**budget)})
        found = run_experiments(model, recording.sites, recording.routers, made, {}, asked).choice
        return {int(test.router.split(".")[2]): test for test in found}

    assert all(test.rise.low > 0.02 for test in run().values())
    gate = model.model.layers[2].mlp.gate.weight
    kept = gate.detach().clone()
    with torch.no_grad():
        gate.copy_(kept[torch.randperm(16, generator=torch.Generator().manual_seed(0))])
    try:
        found = run()
    finally:
        with torch.no_grad():
            gate.copy_(kept)
    assert found[2].rise.low < 0
    assert found[2].rise.high < 0.1 * found[2].stir
    assert found[3].rise.low > 0
    assert run(total_tokens=4 * 3 * 1024)[0].tokens == 1024
    assert run(max_tokens=0) == {}
