"""Fault: what is planted, how strong, and what a true finding says about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.patient import Patient, Site, Wound

Plant = Callable[[Wound], bool]
"""Damages the model; returns whether the detector's own definition demands a finding at this strength."""


def learned(site: Site) -> bool:
    """A router that chooses by its scores."""
    return site.gate.router.kind == "top-k"


def biased(site: Site) -> bool:
    """A learned router with a selection bias."""
    return learned(site) and site.bias is not None


def hashed(site: Site) -> bool:
    """A router that chooses by a table."""
    return site.table is not None


def softmax(site: Site) -> bool:
    """A learned router whose scores are a softmax."""
    return learned(site) and site.function == "softmax"


def sigmoid(site: Site) -> bool:
    """A learned router whose scores are sigmoids."""
    return learned(site) and site.function == "sigmoid"


def square_root(site: Site) -> bool:
    """A router whose scores are sqrt(softplus), learned or hashed."""
    return site.function == "sqrtsoftplus"


def any_site(_site: Site) -> bool:
    """Every router."""
    return True


@dataclass(frozen=True)
class Fault:
    """One kind of damage.

    ``cause`` is a regular expression that the finding's cause must match. ``strengths`` run from weak to strong.
    ``fits`` says which routers it can be planted in. ``scope`` is model where it damages every layer at once.
    ``tokens`` is the smallest probe that the detector's definition asks for: 0 for what the weights alone show.
    ``loss`` runs the loss test. ``visible`` is False where nothing short of a reference could show it.
    ``also`` names detectors whose finding at the same layer is true as well.
    """

    name: str
    detector: str
    cause: str
    says: str
    strengths: tuple[float, ...]
    plant: Plant
    fits: Callable[[Site], bool] = learned
    scope: Literal["layer", "model"] = "layer"
    tokens: int = 2048
    loss: bool = False
    visible: bool = True
    also: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    @property
    def full_name(self) -> str:
        """Detector and name."""
        return f"{self.detector}/{self.name}"

    def sites(self, patient: Patient) -> list[Site]:
        """Routers of a patient that the fault fits."""
        return [site for site in patient.sites if self.fits(site)] if patient.dtype in self.dtypes else []
