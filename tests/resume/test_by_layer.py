"""What is kept of a streamed analysis, and what is refused to go on from it."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moeprobe.checkpoint.streamed import LayerStream
from moeprobe.errors import OutputError
from moeprobe.findings.result import Result
from moeprobe.records.budget import Budget
from moeprobe.records.carried import UnkeptError
from moeprobe.resume import by_layer, snapshot
from tests.commandline import Moeprobe
from tests.resume.stopping import stop, texts

Analysis = list[str]
BATCHES = 3
EACH = BATCHES + 1
"""Files written for each layer."""


@pytest.fixture
def analysis(checkpoints: Path, tmp_path: Path) -> Analysis:
    model = shutil.copytree(checkpoints / "mixtral", tmp_path / "model")
    texts(tmp_path)
    (tmp_path / "small.yaml").write_text(
        "name: small\nprobe: {texts: texts.jsonl, max_tokens: 250, max_length: 60, batch_tokens: 120}\n"
        "scale: {max_tokens: 0}\nchoice: {max_tokens: 0}\n"
    )
    return ["analyze", str(model), "--recipe", "small.yaml", "-o", "out", "--stream", "-q"]


def entered(moeprobe: Moeprobe, analysis: Analysis) -> tuple[int, list[str]]:
    """Exit code, and the layers that were read."""
    layers: list[str] = []
    enter = LayerStream.enter

    def noted(stream: LayerStream, path: str) -> None:
        layers.append(path)
        enter(stream, path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LayerStream, "enter", noted)
        return moeprobe(*analysis).code, layers


def progress() -> list[str]:
    return sorted(path.name for path in Path("out/.progress").iterdir())


@pytest.mark.parametrize(("writes", "done"), [(EACH - 1, 0), (EACH, 1), (3 * EACH - 1, 2), (4 * EACH, 4)])
def test_only_the_layers_that_are_left_are_read(moeprobe: Moeprobe, analysis: Analysis, writes: int, done: int) -> None:
    if writes == 4 * EACH:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "moeprobe.reporting.write.write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            assert moeprobe(*analysis).code == 2
    else:
        stop(moeprobe, analysis, by_layer, writes)
    code, layers = entered(moeprobe, analysis)
    assert (code, layers) == (0, [f"model.layers.{layer}" for layer in range(done, 4)])
    assert not Path("out/.progress").exists()


@pytest.mark.parametrize("writes", [EACH, 3 * EACH, 4 * EACH])
def test_wherever_it_was_interrupted_the_bytes_are_the_same(
    moeprobe: Moeprobe, analysis: Analysis, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """With all layers done, nothing is left in memory but what stands outside of them."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert moeprobe(*analysis).code == 0
    whole = Path("out/result.json").read_bytes()
    shutil.rmtree("out")
    if writes == 4 * EACH:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "moeprobe.reporting.write.write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            assert moeprobe(*analysis).code == 2
    else:
        stop(moeprobe, analysis, by_layer, writes)
    assert moeprobe(*analysis).code == 0
    assert Path("out/result.json").read_bytes() == whole
    assert Result.load("out/result.json").environment.device == "cpu"


def test_hidden_states_of_earlier_layers_go(moeprobe: Moeprobe, analysis: Analysis) -> None:
    stop(moeprobe, analysis, by_layer, 3 * EACH)
    assert progress() == [
        "analysis.json",
        *(f"carried-00002-{batch:05d}.safetensors" for batch in range(BATCHES)),
        *(f"layer-{layer:05d}.safetensors" for layer in range(3)),
    ]


@pytest.mark.parametrize(
    "name", ["layer-00000.safetensors", "layer-00001.safetensors", "carried-00001-00002.safetensors"]
)
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damage_is_noticed(moeprobe: Moeprobe, analysis: Analysis, name: str, damage: str) -> None:
    stop(moeprobe, analysis, by_layer, 2 * EACH)
    file = Path("out/.progress") / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(snapshot.Snapshot({}, {"identity": json.dumps({"recipe": "another"})}).dump())
    outcome = moeprobe(*analysis)
    if (damage, name) == ("gone", "layer-00000.safetensors"):
        assert outcome.code == 0  # as if the analysis had been stopped before
        return
    assert outcome.code == 2
    assert "--restart" in outcome.sentence
    assert moeprobe(*analysis, "--restart").code == 0


def test_changed_weights_and_other_options_are_refused(moeprobe: Moeprobe, analysis: Analysis) -> None:
    stop(moeprobe, analysis, by_layer, 2 * EACH)
    other = ["--no-stream" if one == "--stream" else one for one in analysis]
    assert "leave out --no-stream to go on" in moeprobe(*other).sentence
    assert "another recipe" in moeprobe(*analysis, "--max-tokens", "200").sentence
    file = Path(analysis[1]) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    outcome = moeprobe(*analysis)
    assert outcome.code == 2
    assert "changed weights" in outcome.sentence


def test_a_full_disk_keeps_what_was_there(
    moeprobe: Moeprobe, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith("carried-00001"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.name)
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        outcome = moeprobe(*analysis)
    assert outcome.code == 2
    assert "No space left on device" in outcome.sentence
    assert "make room" in outcome.sentence
    assert "layer-00000.safetensors.partial" in written
    code, layers = entered(moeprobe, analysis)
    assert (code, layers[0]) == (0, "model.layers.1")


def test_weights_are_read_as_before_whatever_is_free_now(
    moeprobe: Moeprobe, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen by what is free, and free memory changes."""
    analysis.remove("--stream")
    with monkeypatch.context() as patched:
        patched.setattr(Budget, "exceeded", property(lambda _: True))
        stop(moeprobe, analysis, by_layer, EACH)
    assert moeprobe(*analysis).code == 0
    assert Result.load("out/result.json").environment.streamed == "layer"
    with monkeypatch.context() as patched:
        patched.setattr(Budget, "exceeded", property(lambda _: True))
        stop(moeprobe, analysis, by_layer, EACH)
        patched.setattr("moeprobe.records.budget.free_memory", lambda: 1000)
        outcome = moeprobe(*analysis)
    assert outcome.code == 2
    assert "free some memory, or begin anew with --restart" in outcome.sentence


def test_what_cannot_be_kept_is_said_and_costs_nothing(
    moeprobe: Moeprobe, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnkeptError("its decoder layers are given a Cache")

    monkeypatch.setattr("moeprobe.records.layer_stops.mappings", refuse)
    outcome = moeprobe(*[one for one in analysis if one != "-q"])
    assert outcome.code == 0
    assert (
        outcome.err.count("The progress of this analysis cannot be kept, since its decoder layers are given a Cache")
        == 1
    )
    assert not Path("out/.progress").exists()


def test_an_own_error_is_not_the_models(
    moeprobe: Moeprobe, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OutputError("Cannot write it.")

    fails: Callable[..., None] = fail
    monkeypatch.setattr(by_layer, "write_bytes", fails)
    outcome = moeprobe(*analysis)
    assert (outcome.code, outcome.sentence) == (2, "moeprobe: Cannot write it.")
