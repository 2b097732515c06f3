import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moeprobe.checkpoint.headers import TensorHeader, read_headers
from moeprobe.errors import IncompleteError


def pack(table: Any, data: bytes = b"") -> bytes:
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_headers_say_where_the_bytes_are(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.arange(3).to(torch.bfloat16),
        "c": torch.zeros(0, 4),
        "d": torch.zeros(5).to(torch.float8_e4m3fn),
        "e": torch.tensor(7),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    headers = read_headers([file])
    assert set(headers) == set(tensors)
    raw = file.read_bytes()
    for name, tensor in tensors.items():
        header = headers[name]
        assert header.shape == tuple(tensor.shape)
        stored = raw[header.start : header.stop]
        assert stored == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert [headers[name].dtype for name in "abde"] == ["F32", "BF16", "F8_E4M3", "I64"]


def test_a_name_in_two_shards_means_the_later_one(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"a": torch.zeros(number)}, tmp_path / f"{number}.safetensors")
    headers = read_headers([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert headers["a"].file.name == "2.safetensors"
    assert isinstance(headers["a"], TensorHeader)


@pytest.mark.parametrize(
    ("content", "gist"),
    [
        (b"", "truncated"),
        (b"abc", "truncated"),
        ((1000).to_bytes(8, "little") + b"{}", "truncated"),
        (pack({"a": entry()}, b"1234"), "truncated (it holds 73 of 77 bytes)"),
        (b"PK\x03\x04" + b"\xff" * 60, "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (pack(b"{broken"), "its header: it is not valid JSON"),
        (pack(b"\xff\xfe{}"), "its header: it is not UTF-8 text"),
        (pack([1]), "not a table"),
        (pack({"a": {"dtype": "F32"}}), "entry of a is not complete"),
        (pack({"a": 3}), "entry of a is not complete"),
        (pack({"a": entry(offsets=(0,))}), "entry of a is not complete"),
        (pack({"a": entry(dtype="F12")}, b"12345678"), "unknown dtype 'F12'"),
        (pack({"a": entry(dtype=["F32"])}, b"12345678"), "unknown dtype"),
        (pack({"a": entry(shape=(3,))}, b"12345678"), "shape of a"),
        (pack({"a": entry(shape=(-2,), offsets=(8, 0))}, b"12345678"), "shape of a"),
        (pack({"a": entry(), "b": entry(offsets=(4, 12))}, b"1" * 12), "overlap before b"),
        (pack({"a": entry(offsets=(4, 12))}, b"1" * 12), "gap or an overlap before a"),
        (pack({"a": entry()}, b"123456789"), "1 bytes follow"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, gist: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(IncompleteError) as caught:
        read_headers([file])
    message = str(caught.value)
    assert gist in message
    assert str(file) in message
    assert "\n" not in message
