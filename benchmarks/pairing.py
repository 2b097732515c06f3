"""Pairs: two faults in one model, at two layers. Each must stand as a finding of its own, as it does alone."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import moeprobe
from benchmarks.fault import Fault
from benchmarks.patient import Patient, Site, Wound
from benchmarks.planting import FAULTS, recipe_for
from moeprobe.detectors import permuted_experts
from moeprobe.errors import MoeprobeError
from moeprobe.findings.finding import Finding
from moeprobe.findings.result import Result

TOKENS = 1024
_BY_NAME = {fault.full_name: fault for fault in FAULTS}
_NEEDS_MORE = ("dead-experts", "overloaded-experts", "low-precision-routing")
"""Detectors that a probe of this size cannot convince."""
_DESCRIBE = (permuted_experts.LITTLE, permuted_experts.REDUNDANT)
"""Causes of findings that are infos from the start."""


@dataclass(frozen=True)
class Planted:
    """One fault, at its strongest, and the layer that it is planted in."""

    name: str
    layer: int

    @property
    def fault(self) -> Fault:
        """What is planted."""
        return _BY_NAME[self.name]


@dataclass(frozen=True)
class Said:
    """What an analysis said: its findings, and whether the loss could be measured. ``refused``: why there are none."""

    findings: tuple[Finding, ...] = ()
    blind: bool = False
    refused: str = ""

    @property
    def standing(self) -> list[Finding]:
        """Errors and warnings that follow no other finding."""
        return [one for one in self.findings if one.severity != "info" and one.follows is None]


@dataclass(frozen=True)
class Outcome:
    """Two faults: what each says alone, and what is said of both."""

    pair: tuple[Planted, Planted]
    alone: tuple[Said, Said]
    both: Said

    @property
    def due(self) -> list[Planted]:
        """Faults that must stand: they do alone, and what comes before does not hide them.

        Behind values that are not finite nothing can be measured; what the weights show is seen all the same.
        """
        if self.both.refused or any(said.refused for said in self.alone):
            return []
        first, second = self.pair
        seen = not self.alone[0].blind or (second.fault.tokens == 0 and not second.fault.loss)
        return [one for one, fair, said in ((first, True, self.alone[0]), (second, seen, self.alone[1]))
                if fair and _at(said, one)]  # fmt: skip

    @property
    def demoted(self) -> list[Planted]:
        """Faults that are due and were found at their layer, but follow another finding only."""
        return [one for one in self._missing if any(found.follows is not None for found in self._said(one))]

    @property
    def unsaid(self) -> list[Planted]:
        """Faults that are due and that no detector finds beside the other: they have nothing that could follow."""
        return [one for one in self._missing if one not in self.demoted]

    @property
    def _missing(self) -> list[Planted]:
        return [one for one in self.due if all(found.follows is not None for found in self._said(one))]

    def _said(self, planted: Planted) -> list[Finding]:
        """What the detectors that find the fault alone say at its layer, problems and consequences."""
        alone = self.alone[self.pair.index(planted)]
        detectors = {planted.fault.detector, *planted.fault.also, *(one.detector for one in _at(alone, planted))}
        return [
            one
            for one in self.both.findings
            if one.layer == planted.layer
            and one.detector in detectors
            and (one.severity != "info" or (one.follows is not None and one.cause not in _DESCRIBE))
        ]

    @property
    def blamed(self) -> list[Finding]:
        """Findings that stand of both and of neither alone: each is one too many."""
        known = {(one.detector, one.layer) for said in self.alone for one in said.standing}
        for planted in self.pair:
            known |= {(name, planted.layer) for name in (planted.fault.detector, *planted.fault.also)}
        return [one for one in self.both.standing if (one.detector, one.layer) not in known]


def _at(said: Said, planted: Planted) -> list[Finding]:
    return [one for one in said.standing if one.layer == planted.layer]


def faults_of(patient: Patient) -> dict[str, list[Site]]:
    """Faults of one layer that can be seen in this checkpoint, with the routers that they fit."""
    fitting = {
        fault.full_name: fault.sites(patient)
        for fault in FAULTS
        if fault.scope == "layer" and fault.visible and fault.detector not in _NEEDS_MORE
    }
    return {name: sites for name, sites in fitting.items() if sites}


def pairs(patient: Patient) -> Iterator[tuple[Planted, Planted]]:
    """Every ordered pair of faults, the same twice included, at two layers that are drawn by their names."""
    fitting = faults_of(patient)
    for one, other in ((one, other) for one in fitting for other in fitting):
        layers = [
            (first.layer, second.layer)
            for first in fitting[one]
            for second in fitting[other]
            if first.layer is not None and second.layer is not None and first.layer < second.layer
        ]
        if layers:
            upper, lower = random.Random(f"{one} {other} {patient.name}").choice(layers)
            yield Planted(one, upper), Planted(other, lower)


def sample(patient: Patient, count: int, seed: int) -> list[tuple[Planted, Planted]]:
    """Draw so many pairs, half of them the same fault twice."""
    every = list(pairs(patient))
    twice = [pair for pair in every if pair[0].name == pair[1].name]
    others = [pair for pair in every if pair[0].name != pair[1].name]
    draw = random.Random(f"{patient.name} {seed}")
    half = min(len(twice), count // 2)
    return draw.sample(twice, half) + draw.sample(others, min(len(others), count - half))


def plant_all(patient: Patient, planted: tuple[Planted, ...], loss: bool = True) -> Said:
    """Plant these faults, analyse (with the loss tests), restore. A fault at a layer is the same, alone or not."""
    with patient.damaged() as stack:
        for one in planted:
            site = next(site for site in patient.sites if site.layer == one.layer)
            rng = random.Random(f"{one.name} {patient.name} {one.layer}")
            one.fault.plant(Wound(patient, site, one.fault.strengths[-1], rng, stack))
        try:
            result = moeprobe.analyze(patient.model, tokenizer=patient.tokenizer, recipe=recipe_for(TOKENS, loss))
        except MoeprobeError as error:
            return Said(refused=str(error))
    return Said(tuple(result.findings), loss and _blind(result))


def _blind(result: Result) -> bool:
    experiments = result.evidence.experiments
    return experiments is None or experiments.loss is None or not math.isfinite(experiments.loss)


def try_pair(patient: Patient, pair: tuple[Planted, Planted], alone: dict[Planted, Said], loss: bool = True) -> Outcome:
    """Plant both; what each says alone is looked up in ``alone``, or measured and kept there."""
    for one in pair:
        if one not in alone:
            alone[one] = plant_all(patient, (one,), loss)
    first, second = pair
    return Outcome(pair, (alone[first], alone[second]), plant_all(patient, pair, loss))
