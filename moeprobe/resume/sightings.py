"""Sightings: all that one process has seen of the probe, as a snapshot and back, merged over processes."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from moeprobe.experiments.gradient import GradientTest
from moeprobe.findings.evidence import Experiments
from moeprobe.records.known import Facts, Known
from moeprobe.records.record import Record
from moeprobe.records.recorder import Recording
from moeprobe.resume.snapshot import Snapshot
from moeprobe.statistics.by_router import ByRouter
from moeprobe.statistics.collect import Collector
from moeprobe.statistics.questions import Questions


@dataclass(eq=False)
class Sightings:
    """Statistics, backward passes, and what the recording knows of the routers.

    ``gradient`` is None where no backward pass is tried, ``questions`` where nothing is asked of the experts.
    """

    recording: Recording
    collector: Collector
    gradient: GradientTest | None = None
    questions: Questions | None = None

    @property
    def counted(self) -> dict[str, ByRouter[Any]]:
        """Everything that is counted, by its name in a snapshot."""
        return {"statistics": self.collector} | ({"questions": self.questions} if self.questions else {})

    def update(self, record: Record) -> None:
        """Take in one record."""
        for each in self.counted.values():
            each.update(record)
        if self.gradient is not None:
            self.gradient.update(record)

    def snapshot(self, routers: Collection[str] | None = None) -> Snapshot:
        """Everything seen so far. Tensors: ``statistics/<router path>/...`` and ``gates/<router path>/...``.

        With ``routers`` (paths) only their tensors; the words are those of all.
        """
        known, tried = self.recording.known, self.gradient.found if self.gradient else {}
        tensors = {
            f"{name}/{key}": tensor
            for name, each in self.counted.items()
            for key, tensor in each.state(routers).items()
        }
        tensors |= {f"gates/{key}": tensor for key, tensor in known.tensors(routers).items()}
        words = {
            "known": known.facts().model_dump_json(),
            "gradient": Experiments(gradient=tried).model_dump_json(include={"gradient"}),
        }
        if self.recording.failure is not None:
            words |= {"failure": self.recording.failure, "failed in": str(self.recording.batch)}
        return Snapshot(tensors, words)

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what ``snapshot()`` gave, instead of what was seen so far.

        Raises:
            ValueError: it is damaged, or that of another model, probe or version.

        """
        try:
            facts = Facts.model_validate_json(snapshot.words["known"])
            tried = Experiments.model_validate_json(snapshot.words["gradient"])
            self.recording.known.restore(facts, snapshot.part("gates"), self.recording.sites)
        except KeyError as error:
            raise ValueError(f"no snapshot of this model: {error}") from error
        for name, each in self.counted.items():
            each.routers.clear()
            each.restore((fact.router for fact in facts.gates.values()), snapshot.part(name))
        if self.gradient is not None:
            self.gradient.found = dict(tried.gradient)
        self.recording.failure = snapshot.words.get("failure")
        self.recording.batch = int(snapshot.words.get("failed in", self.recording.batch))

    def gather(self, parts: Iterable[Snapshot]) -> None:
        """Replace what was seen by what all of ``parts`` have seen together, merged in their order.

        The earliest batch that failed gives the failure: there the analysis would have ended in one process.

        Raises:
            ValueError: the parts cannot belong together.

        """
        total = Known()
        totals = {name: each.like() for name, each in self.counted.items()}
        tried = GradientTest()
        failures: list[tuple[int, str]] = []
        for part in parts:
            self.restore(part)
            total.merge(self.recording.known)
            for name, each in self.counted.items():
                totals[name].merge(each)
                each.routers = {}
            tried.merge(self.gradient.found if self.gradient else {})
            if self.recording.failure is not None:
                failures.append((self.recording.batch, self.recording.failure))
            self.recording.forget()
        self.recording.forget(total)
        for name, each in self.counted.items():
            each.routers = totals[name].routers
        if self.gradient is not None:
            self.gradient.found = tried.found
        self.recording.batch, self.recording.failure = min(failures, default=(self.recording.batch, None))
