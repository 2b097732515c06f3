"""Bookmark: where an analysis stands, in a folder, so that the same command can go on from there.

    .progress/
      analysis.json                   which analysis it is, when it began, and how it reads the weights
      batches-0-of-1.safetensors      what process 0 of 1 has seen of the probe, and how many batches of its own that is
      tests-0-of-1.json               the loss tests that it has finished

What a streamed analysis has seen stands in other files (``by_layer``). Every file is replaced whole, after every batch
and every loss test. Nothing is forced onto the disk: what a killed
process has written stays, what a power cut takes with it is noticed by its damage.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from moeprobe.environment import LATEST
from moeprobe.errors import MoeprobeError, OutputError, ResumeError
from moeprobe.findings.plain import Plain
from moeprobe.json_source import parse_json
from moeprobe.parallel.crew import Crew
from moeprobe.regular_file import read_regular
from moeprobe.resume.sightings import Sightings
from moeprobe.resume.snapshot import Snapshot, read_snapshot, write_bytes
from moeprobe.shortage import is_out_of_memory

_ANALYSIS = "analysis.json"


class Bookmark:
    """Progress of one process of an analysis.

    Args:
        folder: of the progress of all processes; made when there is something to keep.
        crew: the processes of the analysis.
        restart: whether to throw away what the folder holds.

    Raises:
        OutputError: the folder cannot be emptied.
        ResumeError: it cannot be read.

    """

    def __init__(self, folder: Path, crew: Crew, restart: bool = False) -> None:
        self.folder = folder
        self.batches = 0
        self.tests: dict[str, str] = {}
        self.reading: str | None = None
        """What is in memory at a time: ``model``, ``layer`` or ``expert``; None where it is not decided yet."""
        self._crew = crew
        self._identity: dict[str, str] = {}
        self._began = time.time()
        self.started, self._before = self._began, 0.0
        self._found = None if restart else _read(folder / _ANALYSIS, _Analysis)
        if self._found is not None:
            self.started, self.reading = self._found.started, self._found.reading
        elif crew.leads:
            forget(folder)
        crew.meet()

    @property
    def continues(self) -> bool:
        """Whether there is something to go on from."""
        return self._found is not None

    @property
    def seconds(self) -> float:
        """Seconds that all runs of this analysis have taken, as far as they were kept."""
        return self._before + time.time() - self._began

    def expect(self, identity: Mapping[str, str]) -> None:
        """Name what makes this analysis another one than others, as soon as it is known.

        Raises:
            ResumeError: the folder holds the progress of another one.

        """
        self._identity |= identity
        for name, value in identity.items():
            if self._found is not None and self._found.identity.get(name) != value:
                raise ResumeError(
                    f"{self.folder} holds the progress of an interrupted analysis with another {name} "
                    f"(begun {datetime.fromtimestamp(self.started, UTC):%Y-%m-%d %H:%M} UTC); give that command "
                    "again to go on with it, or throw it away with --restart, or choose another output folder."
                )

    def refuse_other_reading(self, stream: bool | None) -> None:
        """Do nothing if the weights may be read as they were when the analysis began; None leaves that open.

        Raises:
            ResumeError: they were streamed and shall not be, or the other way round.

        """
        if stream is None or self.reading is None or stream == (self.reading != "model"):
            return
        begun, option = ("the whole model", "--stream") if stream else ("one layer at a time", "--no-stream")
        raise ResumeError(
            f"{self.folder} holds the progress of an interrupted analysis that had {begun} in memory; leave out "
            f"{option} to go on with it, or throw it away with --restart."
        )

    def stamp(self) -> dict[str, str]:
        """Words for a state that is kept now; ``accept`` takes them. The analysis is declared before its first state.

        Raises:
            OutputError: that cannot be written.

        """
        if self._crew.leads and self._found is None:
            self._found = _Analysis(started=self.started, identity=self._identity, reading=self.reading)
            write_bytes(self.folder / _ANALYSIS, self._found.model_dump_json(indent=1).encode())
        return {"identity": json.dumps(self._identity), "seconds": repr(self.seconds)}

    def accept(self, words: Mapping[str, str], seconds: float = 0.0) -> None:
        """Go on from a state with these words; ``seconds`` are those at which something else was kept.

        Raises:
            ValueError, KeyError: it is that of another analysis.

        """
        if parse_json(words["identity"]) != self._identity:
            raise ValueError("another analysis")
        self._before = max(self._before, float(words["seconds"]), seconds)

    def resume(self, seen: Sightings) -> None:
        """Put back what was seen and tested before, and count the batches that need not be read again.

        Raises:
            ResumeError: what was kept is damaged.

        """
        snapshot = None if self._found is None else read_snapshot(self._batches)
        if snapshot is not None:
            tests = _read(self._tests, _Tests) or _Tests()
            with taking_up(self._batches):
                self.accept(snapshot.words, tests.seconds)
                seen.restore(snapshot)
                self.batches = int(snapshot.words["batches"])
                if self.batches < 0:
                    raise ValueError("fewer than no batches")
            self.tests = dict(tests.tests)
        self._crew.agree(self.batches, len(self.tests))

    def keep(self, seen: Sightings) -> None:
        """One more batch is done: keep everything seen so far.

        Raises:
            OutputError: it cannot be written.

        """
        words = {"batches": str(self.batches + 1), **self.stamp()}
        state = seen.snapshot()
        if self._writes:
            write_bytes(self._batches, Snapshot(state.tensors, {**state.words, **words}).dump())
        self.batches += 1

    def keep_test(self, name: str, outcome: str) -> None:
        """One more loss test is done; ``outcome`` is JSON.

        Raises:
            OutputError: it cannot be written.

        """
        self.tests[name] = outcome
        if self._writes:
            write_bytes(self._tests, _Tests(tests=self.tests, seconds=self.seconds).model_dump_json().encode())

    @property
    def _own(self) -> str:
        """Where all see every token, the first process keeps what all go on from."""
        return f"{0 if self._crew.alike else self._crew.rank}-of-{self._crew.size}"

    @property
    def _writes(self) -> bool:
        return self._crew.leads or not self._crew.alike

    @property
    def _batches(self) -> Path:
        return self.folder / f"batches-{self._own}.safetensors"

    @property
    def _tests(self) -> Path:
        return self.folder / f"tests-{self._own}.json"


_Seconds = Annotated[float, Field(ge=0, le=LATEST)]


class _Analysis(Plain):
    started: _Seconds
    identity: dict[str, str]
    reading: str | None = None


class _Tests(Plain):
    tests: dict[str, str] = {}
    seconds: _Seconds = 0.0


_Kept = TypeVar("_Kept", bound=Plain)


def _read(path: Path, kind: type[_Kept]) -> _Kept | None:
    try:
        return kind.model_validate_json(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unreadable(path) from error


@contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Within this block, which puts back what a file of progress says, every way to fail at it means damage.

    Raises:
        ResumeError: the block failed.

    """
    try:
        yield
    except MoeprobeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise unreadable(path) from error


def unreadable(path: Path) -> ResumeError:
    """The error of a file that is damaged, or of another analysis."""
    return ResumeError(f"The progress in {path} cannot be read; begin anew with --restart.")


def forget(folder: Path) -> None:
    """Remove progress: the result is safe, or the analysis shall begin anew.

    Raises:
        OutputError: it cannot be removed.

    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"Cannot remove {folder}: {error.strerror or error}; remove it yourself.") from error
