"""Every file that is read may hold anything, or be no file at all: one sentence, exit 2, and no waiting."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.commandline import Moeprobe, Outcome
from tests.test_outside import KINDS, irregular

INDEX = "model.safetensors.index.json"
DEEP = b"[" * 100_000
DIGITS = b'{"a": ' + b"9" * 5000 + b"}"
HALF = b'{"a": "\\ud800"}'
BROKEN = {
    "deep": (DEEP, "nested more than 100 levels"),
    "deep objects": (b'{"a":' * 100_000, "nested more than 100 levels"),
    "digits": (DIGITS, "more than 4,300 digits"),
    "surrogate": (HALF, "half of a surrogate pair"),
    "binary": (b"\xff\xfe\x00", "not UTF-8"),
    "cut": (b'{"a": {"b"', "not valid JSON"),
    "empty": (b"", "not valid JSON"),
}
PIPES = [*KINDS.items(), ("loop", "symbolic links")]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A pipe that is opened to be read waits for ever."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "mixtral", tmp_path / "model"))


def shard(folder: Path) -> dict[str, str]:
    """Spread the weights over two files; gives the weight map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    table = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return table


def put(path: Path, content: bytes | str) -> None:
    """Write a file, or what is no regular one."""
    if path.exists():
        path.unlink()
    if isinstance(content, str):
        irregular(path, content)
    else:
        path.write_bytes(content)


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    said = outcome.sentence
    assert "does not know" not in said
    for word in words:
        assert word in said, said


def bomb(first: str, more: str) -> bytes:
    """YAML in which every line repeats the one before five times."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefghijklmnopq", "bcdefghijklmnopqr", strict=True):
        lines.append(f"{name}: &{name} " + more.format(", ".join([f"*{before}"] * 5)))
    return "\n".join(lines).encode()


ALL = [*BROKEN.values(), *PIPES]
IDS = [*BROKEN, *(kind for kind, _ in PIPES)]


@pytest.mark.parametrize(("content", "words"), ALL, ids=IDS)
def test_config(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    put(folder / "config.json", content)
    for arguments in (["routers", folder], ["check", folder, "--weights-only"], ["diff", folder, folder]):
        refused(moeprobe(*arguments), "config.json", words)


@pytest.mark.parametrize(("content", "words"), ALL, ids=IDS)
def test_index(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    shard(folder)
    put(folder / INDEX, content)
    missing = "missing" if content in ("folder", "loop") else words
    for arguments in (["routers", folder], ["check", folder, "--weights-only"]):
        refused(moeprobe(*arguments), missing if content in ("folder", "loop") else INDEX)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "a/b.safetensors", "x\0.safetensors", "config.json", "x" * 300 + ".safetensors", "/dev/zero"],
    ids=ascii,
)  # fmt: skip
def test_an_index_that_names_no_weights(moeprobe: Moeprobe, folder: Path, name: str) -> None:
    table = shard(folder)
    table[min(table)] = name
    (folder / INDEX).write_text(json.dumps({"weight_map": table}))
    for arguments in (["routers", folder], ["check", folder, "--weights-only"]):
        refused(moeprobe(*arguments), "The weight index", "names")


def test_an_index_that_names_a_tensor_twice(moeprobe: Moeprobe, folder: Path) -> None:
    table = shard(folder)
    text = json.dumps({"weight_map": table}).replace('map": {', f'map": {{"{min(table)}": "{max(table.values())}", ')
    (folder / INDEX).write_text(text)
    refused(moeprobe("check", folder, "--weights-only"), f"names '{min(table)}' twice")


@pytest.mark.parametrize(("content", "words"), ALL, ids=IDS)
def test_weights(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    """A broken header; or no file at all."""
    file = folder / "model.safetensors"
    if isinstance(content, bytes):
        content, words = len(content).to_bytes(8, "little") + content, "its header"
    put(file, content)
    for arguments in (["routers", folder], ["check", folder, "--weights-only"]):
        outcome = moeprobe(*arguments)
        refused(outcome, *([] if words == KINDS["folder"] or "symbolic" in words else [words]))


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 10**4000]}, {"data_offsets": [-1, 5]}, {"data_offsets": [0, 9.5]},
        {"data_offsets": [False, True]}, {"shape": [10**4000] * 3}, {"shape": [10**4200] * 5000}, {"shape": [1] * 1000},
        {"shape": "ab"}, {"shape": None}, {"dtype": "X"}, {"dtype": []}, {"shape": json.loads("[" * 90 + "]" * 90)},
    ],
    ids=lambda change: str(change)[:30],
)  # fmt: skip
def test_an_entry_of_a_header(moeprobe: Moeprobe, folder: Path, change: dict[str, object]) -> None:
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header[max(header)] |= change
    new = json.dumps(header).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + length :])
    for arguments in (["routers", folder], ["check", folder, "--weights-only"]):
        refused(moeprobe(*arguments), "model.safetensors is damaged")


@pytest.mark.parametrize("file", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "words"), ALL, ids=IDS)
def test_small_files(moeprobe: Moeprobe, folder: Path, file: str, content: bytes | str, words: str) -> None:
    put(folder / file, content)
    refused(moeprobe("analyze", folder, "--recipe", "quick"), file, words)


@pytest.mark.parametrize(
    ("content", "words"), [(DEEP, ""), (b"{}", ""), ("pipe", KINDS["pipe"]), ("device", KINDS["device"])]
)
def test_tokenizer(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    put(folder / "tokenizer.json", content)
    refused(moeprobe("analyze", folder, "--recipe", "quick"), "tokenizer", words)


@pytest.mark.parametrize(("content", "words"), ALL, ids=IDS)
def test_results(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    put(Path("saved.json"), content)
    for arguments in (["report", "saved.json"], ["check", folder, "--baseline", "saved.json", "--weights-only"]):
        outcome = moeprobe(*arguments)
        refused(outcome, "saved.json" if content != "folder" else "result.json")
        assert content == "folder" or words in outcome.sentence


@pytest.mark.parametrize(("content", "words"), [*list(BROKEN.values())[:-1], *PIPES[:3], PIPES[4]])
def test_texts(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    put(Path("texts.jsonl"), content)
    refused(moeprobe("analyze", folder, "--probe", "texts.jsonl"), "texts.jsonl", words)


@pytest.mark.parametrize(("content", "words"), PIPES[:3])
def test_a_folder_of_texts(moeprobe: Moeprobe, folder: Path, content: str, words: str) -> None:
    Path("texts/a").mkdir(parents=True)
    Path("texts/a/1.txt").write_text("word " * 100)
    put(Path("texts/a/2.txt"), content)
    refused(moeprobe("analyze", folder, "--probe", "texts"), "texts/a/2.txt", words)


@pytest.mark.parametrize("links", [["a/up -> .."], ["a/here -> ."], ["one -> a", "two -> a"]], ids=str)
def test_a_folder_of_texts_that_holds_itself(moeprobe: Moeprobe, folder: Path, links: list[str]) -> None:
    Path("texts/a").mkdir(parents=True)
    Path("texts/a/1.txt").write_text("word " * 100)
    for link in links:
        name, _, target = link.partition(" -> ")
        Path("texts", name).symlink_to(target)
    refused(moeprobe("analyze", folder, "--probe", "texts"), "reached twice, through a symbolic link")


@pytest.mark.parametrize("name", ["moeprobe.toml", "pyproject.toml"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[tool.moeprobe]\nselect = " + DEEP, "nested too deep"),
        (b"[tool.moeprobe]\nx = " + b"9" * 5000, "4,300 digits"),
        (b"\xff", "not valid TOML"),
        *PIPES,
    ],
    ids=["deep", "digits", "binary", *(kind for kind, _ in PIPES)],
)
def test_policies(moeprobe: Moeprobe, folder: Path, name: str, content: bytes | str, words: str) -> None:
    put(Path(name), content)
    refused(moeprobe("check", folder, "--weights-only"), name, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: x\nlimits: " + DEEP, "nested too deep"),
        (b"name: x\nseed: " + b"9" * 5000, "4,300 digits"),
        (b'name: "\\ud800"', "half of a surrogate pair"),
        (b"name: \xff", "not UTF-8"),
        (b"name: !!timestamp x", "does not fit the tag"),
        (b"name: !!bool x", "does not fit the tag"),
        (b"name: x\ninclude: ''", "Unknown recipe ''"),
        (b'name: x\ninclude: "a\\0b.yaml"', "Unknown recipe"),
        (b"name: x\ninclude: " + b"a" * 300 + b".yaml", "File name too long"),
        (bomb("[1, 1, 1]", "[{}]"), "100,000 entries"),
        (bomb("{k: 1}", "{{<<: [{}]}}"), "100,000 entries"),
        (b"name: x\nseed: -1", "seed"),
        (b"name: x\nseed: %d" % 2**64, "seed"),
        (b"name: x\nprobe: {max_tokens: %d}" % 10**30, "max_tokens"),
        (b"name: x\nchoice: {repetitions: %d}" % 10**9, "repetitions"),
        *PIPES,
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)  # fmt: skip
def test_recipes(moeprobe: Moeprobe, folder: Path, content: bytes | str, words: str) -> None:
    put(Path("own.yaml"), content)
    refused(moeprobe("check", folder, "--weights-only", "--recipe", "own.yaml"), words)
    refused(moeprobe("recipe", "show", "own.yaml"), words)


def test_names_that_are_too_long(moeprobe: Moeprobe, folder: Path) -> None:
    for length in (300, 5000):
        name = "x" * length
        for arguments in (
            ["routers", f"./{name}"], ["routers", name], ["check", name, "--weights-only"], ["report", name],
            ["diff", name, name], ["analyze", folder, "-o", name], ["analyze", folder, "--probe", name],
            ["analyze", folder, "--recipe", f"{name}.yaml"], ["analyze", folder, "--recipe", name],
            ["analyze", folder, "--baseline", name], ["analyze", folder, "--tokenizer", name],
            ["check", folder, "--output", f"json={name}"], ["recipe", "copy", "full", f"{name}.yaml"],
            ["gates", folder, "-o", name], ["explain", name],
        ):  # fmt: skip
            outcome = moeprobe(*arguments)
            refused(outcome)
            assert len(outcome.sentence) < 1000, arguments


def test_a_name_as_long_as_it_may_be(moeprobe: Moeprobe, folder: Path) -> None:
    name = "x" * 250 + ".json"
    assert moeprobe("check", folder, "--weights-only", "--output", f"json={name}").code == 0
    assert json.loads(Path(name).read_text())["schema_version"] == 1


def test_names_that_are_not_utf_8(moeprobe: Moeprobe, folder: Path) -> None:
    """What can be opened is read and written; what transformers could not open is refused."""
    bad = os.fsdecode(b"\xff")
    shutil.copytree(folder, f"model{bad}")
    refused(moeprobe("analyze", f"model{bad}"), "not valid UTF-8")
    refused(moeprobe("analyze", folder, "--tokenizer", f"model{bad}"), "--tokenizer")
    Path("link").symlink_to(f"model{bad}")
    Path(f"texts{bad}/a{bad}").mkdir(parents=True)
    for number in range(3):
        Path(f"texts{bad}/a{bad}/{number}{bad}.txt").write_text(f"{number} word " * 100)
    short = ["--recipe", "quick", "--max-tokens", "300", "--quiet", "--probe", f"texts{bad}", "-o", f"out{bad}"]
    outcome = moeprobe("analyze", "link", *short)
    assert outcome.code == 0, outcome.err
    saved = json.loads(Path(f"out{bad}/result.json").read_text())
    assert saved["model"]["name"] == "model\\xff"
    assert list(saved["evidence"]["probe"]["sources"]) == ["a\\xff"]
    assert saved["recipe"]["probe"]["texts"] == "texts\\xff"
    for form in ("json", "html", "junit", "sarif", "markdown"):
        assert moeprobe("report", f"out{bad}", "--format", form, "-o", f"report{bad}.{form}").code == 0
