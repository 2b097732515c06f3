"""What comes from outside is read by few readers; each says in a clause what is wrong."""

import os
import socket
import subprocess
import sys
from errno import ENOMEM
from pathlib import Path

import pytest

from moeprobe.environment import check_endpoint, refuse_unparsable_endpoint, source_date_epoch
from moeprobe.errors import OptionError
from moeprobe.json_source import DEEPEST, JsonError, parse_json
from moeprobe.legible import is_legible, legible
from moeprobe.regular_file import is_regular, read_regular
from moeprobe.shortage import is_out_of_memory


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * 100_000, "nested more than 100 levels"),
        (b'{"a":' * 100_000, "nested more than 100 levels"),
        (b"[" * (DEEPEST + 2) + b"]" * (DEEPEST + 2), "nested more than 100 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 4,300 digits"),
        (b'{"a": "\\ud800"}', "\\ud800, half of a surrogate pair"),
        (b'{"\\uDFFF": 1}', "\\udfff, half of a surrogate pair"),
        (b'[["x\\udc00\\ud800"]]', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ("\ud800", "not valid JSON"),
        ('"\ud800"', "half of a surrogate pair"),
        (b"\xff", "not UTF-8 text (byte 0)"),
        (b"", "not valid JSON (line 1, column 1"),
        (b"\n{", "not valid JSON (line 2, column 2"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"\0\0", "not valid JSON"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_json_that_cannot_be_used(data: bytes | str, words: str) -> None:
    with pytest.raises(JsonError) as error:
        parse_json(data)
    assert str(error.value).startswith("it ")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": [1, 2.5, null, true, "\\u00e9"]}', {"a": [1, 2.5, None, True, "é"]}),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"\\\\ud800"', "\\ud800"),
        (b"9" * 4300, int("9" * 4300)),
        (b"[" * DEEPEST + b"]" * DEEPEST, None),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
    ids=range(6),
)
def test_sound_json(data: bytes, value: object) -> None:
    read = parse_json(data)
    assert value is None or read == value


def test_a_key_twice() -> None:
    with pytest.raises(JsonError, match="names 'a' twice"):
        parse_json(b'{"b": {"a": 1, "a": 1}}', unique=True)
    assert parse_json(b'{"b": {"a": 1}, "a": 1}', unique=True) == {"b": {"a": 1}, "a": 1}


def test_a_byte_order_mark_where_people_write() -> None:
    assert parse_json(b"\xef\xbb\xbf{}", byte_order_mark=True) == {}


def irregular(path: Path, kind: str) -> None:
    """Put something there that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # the address of a socket may be no longer than 108 bytes
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")


KINDS = {"pipe": "it is a pipe", "socket": "it is a socket", "device": "it is a device", "folder": "it is a folder"}


@pytest.mark.parametrize(("kind", "words"), [*KINDS.items(), ("loop", "symbolic links")])
def test_only_regular_files_are_read(tmp_path: Path, kind: str, words: str) -> None:
    irregular(tmp_path / "file", kind)
    with pytest.raises(OSError, match=words) as error:
        read_regular(tmp_path / "file")
    assert str(error.value.filename) == str(tmp_path / "file")
    assert not is_regular(tmp_path / "file")


def test_a_file_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", most=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "file", most=4)
    with pytest.raises(OSError, match="no file name can hold"):
        read_regular(tmp_path / "a\0b")


def test_legible() -> None:
    assert legible(os.fsdecode(b"m\xff\xc3\xa9")) == "m\\xffé"
    assert legible("a\ud800b") == "a\\ud800b"
    assert is_legible("é")
    assert not is_legible("\udcff")


@pytest.mark.parametrize(
    ("said", "moment"),
    [("", None), ("  ", None), ("0", 0.0), ("1700000000", 1.7e9), ("253402300799", 253402300799.0), (" 5\n", 5.0)],
)
def test_source_date_epoch(said: str, moment: float | None) -> None:
    assert source_date_epoch({"SOURCE_DATE_EPOCH": said}) == moment


@pytest.mark.parametrize("said", ["-1", "1.5", "1e9", "²", "٣", "now", "253402300800", "9" * 30, "9" * 5000, "1_000"])
def test_no_source_date_epoch(said: str) -> None:
    with pytest.raises(OptionError, match="SOURCE_DATE_EPOCH"):
        source_date_epoch({"SOURCE_DATE_EPOCH": said})


@pytest.mark.parametrize(
    "said",
    ["not a url", "http://", "ftp://x", "http://[::1", "huggingface.co", "https:///x", "http://a:b", "http://a b"],
)
def test_no_endpoint(said: str) -> None:
    with pytest.raises(OptionError, match="HF_ENDPOINT"):
        check_endpoint({"HF_ENDPOINT": said})


@pytest.mark.parametrize("said", ["", "https://huggingface.co", "http://localhost:8080/", "https://[::1]:443"])
def test_an_endpoint(said: str) -> None:
    check_endpoint({"HF_ENDPOINT": said})
    refuse_unparsable_endpoint({"HF_ENDPOINT": said})


def test_an_endpoint_that_is_not_used() -> None:
    check_endpoint({"HF_ENDPOINT": "ftp://x", "HF_HUB_OFFLINE": "1"})
    with pytest.raises(OptionError):  # its library falls over it when it is imported
        refuse_unparsable_endpoint({"HF_ENDPOINT": "http://[::1", "HF_HUB_OFFLINE": "1"})


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul"), False),
        (RuntimeError("index out of range"), False),
        (OSError(28, "No space left on device"), False),
        (ImportError("No module named torch"), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_shortage(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short
    wrapped = ValueError("cannot be loaded")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped) is short


def test_readers_cost_no_torch() -> None:
    program = "import moeprobe.json_source, moeprobe.environment, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
