"""The routers of a hub model by HTTP Range, and everything that can go wrong on the way."""

from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from moeprobe.checkpoint.ranges import LocalFiles
from moeprobe.errors import CheckpointError, IncompleteError, NotFoundError
from moeprobe.weights_scan import scan
from tests.checkpoint.fake_hub import COMMIT, Hub
from tests.weights_only.stored import KIMI, kimi, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "tiny", KIMI | {"hidden_size": 4096, "n_routed_experts": 32}, kimi(hidden=4096, experts=32, width=8)
    )


@pytest.fixture
def published(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the attempts of huggingface_hub
    hub.repositories["org/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return hub


def test_only_the_routers_are_sent(published: Hub, folder: Path) -> None:
    local, remote = scan(folder), scan("org/tiny")
    assert remote.routers == local.routers
    assert [one.router.path for one in remote.routers] == [f"model.layers.{n}.mlp.gate" for n in (1, 2, 3)]
    assert remote.model.revision == COMMIT
    assert remote.model.parameters is None
    routers = 3 * (32 * 4096 * 2 + 32 * 4)
    assert published.sent <= 1.2 * routers
    assert remote.bytes_read <= published.sent < 0.2 * sum(map(len, published.repositories["org/tiny"].values()))
    shards = {name for name in published.served if name.endswith(".safetensors")}
    assert shards == {f"model-0000{n}-of-00006.safetensors" for n in (3, 4, 5)}


@pytest.mark.usefixtures("published")
def test_one_request_a_header() -> None:
    assert scan("org/tiny").requests == 3 * 2  # the header; matrix and bias, which here stand side by side


def test_the_token_and_the_commit_go_along(published: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_mine")
    scan("org/tiny", revision="main")
    assert "Bearer hf_of_mine" in published.tokens
    with pytest.raises(NotFoundError, match="no revision 'v9'"):
        scan("org/tiny", revision="v9")


def test_a_busy_server_is_asked_again(published: Hub) -> None:
    published.busy = 3
    assert len(scan("org/tiny").routers) == 3


def test_a_server_that_stays_busy(published: Hub) -> None:
    published.busy = 10_000
    with pytest.raises(CheckpointError, match=r"does not serve org/tiny/.*: it answers 503.*try again later"):
        scan("org/tiny")


def test_a_transfer_that_breaks_off_is_asked_for_again(published: Hub, folder: Path) -> None:
    published.short = 2
    assert scan("org/tiny").routers == scan(folder).routers


def test_a_server_that_sends_the_whole_file(published: Hub) -> None:
    published.ranges = False
    with pytest.raises(CheckpointError, match=r"ignores HTTP Range.*hf download org/tiny"):
        scan("org/tiny")
    # Bodies of the config and the index, and of a shard no more than what is in flight.
    assert published.requests < 20


def test_a_shard_that_the_hub_has_lost(published: Hub) -> None:
    del published.repositories["org/tiny"]["model-00004-of-00006.safetensors"]
    with pytest.raises(IncompleteError, match=r"model-00004-of-00006\.safetensors is missing on the hub"):
        scan("org/tiny")


def test_offline_the_cache_is_read_or_the_sentence_says_what_lacks(
    published: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan("org/tiny")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(IncompleteError, match="6 of 6 weight files are missing from"):
        scan("org/tiny")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    from huggingface_hub import snapshot_download

    snapshot_download("org/tiny")
    sent = published.sent
    assert scan("org/tiny").routers == scan(folder).routers
    assert published.sent - sent < 1000  # online the cache is used too, but for the list of files
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert scan("org/tiny").routers == scan(folder).routers


def test_local_ranges(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    files = LocalFiles(tmp_path)
    assert files.read("a", 10, 20) == (bytearray(range(10, 20)), 100)
    assert files.read("a", 90, 200) == (bytearray(range(90, 100)), 100)
    assert (files.bytes_read, files.requests) == (20, 2)
    with pytest.raises(IncompleteError, match="b is missing"):
        files.read("b", 0, 1)
