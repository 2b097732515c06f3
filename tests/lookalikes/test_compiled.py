"""Compiled, parallel, scripted and exported models: recorded as they are without, or refused, never silently empty."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import moeprobe
from moeprobe.errors import RecordingError
from moeprobe.pipeline import analyze
from moeprobe.records.eager import eagerly
from moeprobe.records.recorder import Recording
from tests.families import build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
GATE = "model.layers.1.mlp.gate"


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    torch._dynamo.reset()


def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 2000, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def recorded(model: nn.Module, call: Callable[..., object] | None = None) -> Recording:
    with moeprobe.record(model) as recording, torch.no_grad():
        (call or model)(**batch())
    return recording


def assert_same(seen: Recording, family: str = "mixtral") -> None:
    plain = recorded(build(family)).records
    assert [one.router for one in seen.records] == [one.router for one in plain]
    for one, other in zip(seen.records, plain, strict=True):
        assert torch.equal(one.experts, other.experts)
        assert torch.equal(one.weights, other.weights)
        assert other.token_ids is not None
        assert one.token_ids is not None
        assert torch.equal(one.token_ids, other.token_ids)
    assert stance() == "default"


def stance() -> str:
    return str(torch._dynamo.eval_frame._stance.stance)


def inside(path: str, backend: str = "eager") -> Callable[[nn.Module], nn.Module]:
    """Put the compiled module in the place of the one at ``path``."""

    def change(model: nn.Module) -> nn.Module:
        holder, _, name = path.rpartition(".")
        setattr(model.get_submodule(holder), name, torch.compile(model.get_submodule(path), backend=backend))
        return model

    return change


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


def forward(model: nn.Module) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda model: torch.compile(model, backend="eager"),
        in_place,
        forward,
        inside("model.layers.1"),
        inside("model.layers.1.mlp"),
        inside(GATE, "aot_eager"),
        inside("model"),
        nn.DataParallel,
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    ],
    ids=["wrapped", "in place", "forward", "layer", "block", "router", "body", "parallel", "both"],
)
def test_a_model_behind_something_is_recorded_as_it_is(change: Callable[[nn.Module], nn.Module]) -> None:
    model = change(build("mixtral"))
    with torch.no_grad():
        model(**batch())  # compiled before the hooks are there
    assert_same(recorded(model))


@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v4", "gpt_oss"])
def test_other_families(family: str) -> None:
    assert_same(recorded(torch.compile(build(family), backend="eager")), family)


def test_compiled_while_recorded_and_the_original_called() -> None:
    model = build("mixtral")
    with moeprobe.record(model) as recording, torch.no_grad():
        torch.compile(model, backend="eager")(**batch())
    assert_same(recording)
    model = build("mixtral")
    assert_same(recorded(torch.compile(model, backend="eager"), model))


def test_the_stance_is_put_back_after_an_error_and_shared_by_threads() -> None:
    model = torch.compile(build("mixtral"), backend="eager")

    def fails() -> None:
        with moeprobe.record(model):
            assert stance() == "force_eager"
            raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        fails()
    assert stance() == "default"
    began, finish = threading.Event(), threading.Event()

    def other() -> None:
        with eagerly():
            began.set()
            finish.wait(10)

    thread = threading.Thread(target=other)
    with eagerly():
        thread.start()
        began.wait(10)
    assert stance() == "force_eager"  # the other thread's block still runs
    finish.set()
    thread.join()
    assert stance() == "default"


def test_a_stance_of_the_user_comes_back() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        recorded(build("mixtral"))
        assert stance() == "eager_on_recompile"


def test_analyze_takes_a_compiled_model(checkpoints) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "mixtral")

    def result(change: Callable[[nn.Module], nn.Module]) -> list[object]:
        model = change(AutoModelForCausalLM.from_pretrained(checkpoints / "mixtral"))
        found = analyze(model, tokenizer=tokenizer, recipe="quick", max_tokens=1500)
        return [found.model, found.evidence, found.checks, found.findings]

    plain = result(lambda model: model)
    assert result(lambda model: torch.compile(model, backend="eager")) == plain
    assert result(in_place) == plain


def test_torchscript_is_refused() -> None:
    block = build("mixtral").get_submodule("model.layers.0.mlp")

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = block
            self.head = torch.jit.script(nn.Linear(2, 2))

    with pytest.raises(RecordingError, match="calls no hooks; record the model that it was made from"):
        moeprobe.record(Holder())


def test_nothing_seen_is_said() -> None:
    model = build("mixtral")
    with (
        pytest.warns(RuntimeWarning, match="MixtralForCausalLM was not called while it was recorded"),
        moeprobe.record(model) as idle,
    ):
        pass
    assert idle.records == []
    assert set(idle.unread.values()) == {"it was never called while it was recorded"}
    for layer in model.model.layers:
        layer.forward = lambda hidden, *_, **__: hidden
    with (
        pytest.warns(RuntimeWarning, match="ran, and none of its routers was called"),
        moeprobe.record(model) as around,
        torch.no_grad(),
    ):
        model(**batch())
    assert set(around.unread.values()) == {"the forward pass never reached it"}


def test_an_error_of_the_user_is_not_followed_by_a_warning() -> None:
    with pytest.raises(KeyError), moeprobe.record(build("mixtral")):
        raise KeyError


def test_positions_while_generating() -> None:
    ids = batch()["input_ids"]
    with moeprobe.record(build("mixtral")) as recording, torch.no_grad():
        recording.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=0
        )
    assert [sorted(set(one.positions.tolist())) for one in recording.records[2::2]] == [[12], [13]]
    assert all(router.verified for router in recording.routers)
