"""What the tie of gate rows to experts shows on checkpoints: healthy, permuted, exchanged, pruned and unrelated gates.

    python benchmarks/ties.py                     # the checkpoints of the repository
    python benchmarks/ties.py FOLDER ...          # others, such as those of scripts/training

One line a layer: the tie as it is; the lead of the best assignment and the share of the fit that the present order
keeps; the clearest exchange that is none; the same for gates that do not belong there (random ones, mixtures of the
rows, gates of other layers); and what of planted faults the assignment finds by itself. Then, for the model as a whole,
what permuted-experts says by the weights alone: found at the right layer, and how often at a sound one.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from moeprobe.checkpoint.load import load_model  # noqa: E402
from moeprobe.checkpoint.open import open_checkpoint  # noqa: E402
from moeprobe.detectors.permuted_experts import PermutedExpertsLimits  # noqa: E402
from moeprobe.detectors.row_order import is_permuted, rings, row_orders  # noqa: E402
from moeprobe.findings.evidence import RouterEvidence  # noqa: E402
from moeprobe.findings.router import Router  # noqa: E402
from moeprobe.findings.weights import ExpertWeights, ForeignTie, RowTie  # noqa: E402
from moeprobe.routers.arrangement import Arrangement, arrangement  # noqa: E402
from moeprobe.routers.coupling import Coupling  # noqa: E402
from moeprobe.routers.experts import expert_tensors  # noqa: E402
from moeprobe.routers.find import find_sites  # noqa: E402
from moeprobe.routers.still import read_still  # noqa: E402

LIMITS = PermutedExpertsLimits()
DRAWS = 20


@dataclass(frozen=True)
class Layer:
    """One learned router and its experts; ``tie`` holds the experts against any gate."""

    name: str
    gate: Tensor
    tensors: dict[str, list[Tensor]]
    known: Arrangement

    def having(self, gate: Tensor) -> "Layer":
        """The same experts with another gate."""
        return replace(self, gate=gate)

    def tie(self, gate: Tensor, experts: list[int] | None = None) -> RowTie:
        """The tie of the experts (all, or these) to the rows of a gate."""
        kept = list(range(len(gate))) if experts is None else experts
        coupling = Coupling(gate, self.known)
        for place, expert in enumerate(kept):
            coupling.add(place, {name: views[expert] for name, views in self.tensors.items()})
        found, reason = coupling.tie()
        assert found is not None, reason
        return found


def layers(folder: Path) -> Iterator[Layer]:
    """The learned routers of a checkpoint."""
    model = load_model(open_checkpoint(folder), dtype="float32").model
    for site in find_sites(model):
        gate = read_still(site, model.config, "")
        if gate.weight is None or gate.router.kind != "top-k":
            continue
        tensors = expert_tensors(site, gate.router.experts)
        yield Layer(str(site.layer), gate.weight.detach().float(), tensors, arrangement(site))


def unrelated(here: Layer, every: list[Layer], draw: np.random.Generator) -> Iterator[Tensor]:
    """Gates that have nothing to do with these experts."""
    generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
    count, hidden = here.gate.shape
    yield torch.randn(count, hidden, generator=generator)
    yield torch.randn(count, count, generator=generator) @ (here.gate - here.gate.mean(0)) / count**0.5
    yield from (other.gate for other in every if other is not here and other.gate.shape == here.gate.shape)


FAULTS = ("sound", "renumbered", "rows", "rolled", "half", "pair", "swapped", "pruned", "random")


def plant(fault: str, here: int, every: list[Layer], draw: np.random.Generator) -> tuple[list[Layer], set[int]]:
    """The layers with a fault in one of them, and the places where something is wrong now."""
    layer, changed = every[here], list(every)
    count = len(layer.gate)
    order = np.arange(count)
    if fault == "sound":
        return changed, set()
    if fault == "swapped":
        other = int(draw.choice([place for place in range(len(every)) if place != here]))
        changed[here], changed[other] = layer.having(every[other].gate), every[other].having(layer.gate)
        return changed, {here, other}
    if fault in ("renumbered", "pruned"):
        kept = draw.permutation(count) if fault == "renumbered" else np.sort(draw.choice(count, 3 * count // 4, False))
        rows = kept if fault == "renumbered" else np.arange(len(kept))
        tensors = {name: [views[expert] for expert in kept] for name, views in layer.tensors.items()}
        changed[here] = Layer(layer.name, layer.gate[rows], tensors, layer.known)
        return changed, set() if fault == "renumbered" else {here}
    if fault == "random":
        noise = torch.randn(layer.gate.shape, generator=torch.Generator().manual_seed(int(draw.integers(2**31))))
        changed[here] = layer.having(noise * layer.gate.std())
        return changed, {here}
    some = draw.choice(count, {"half": count // 2, "pair": 2}.get(fault, count), replace=False)
    order[some] = np.roll(some, 1)
    if fault == "rolled":
        order = np.roll(order, 1)
    elif fault == "rows":
        order = draw.permutation(count)
    changed[here] = layer.having(layer.gate[order])
    return changed, {here}


def judged(every: list[Layer]) -> dict[int, str]:
    """Place -> verdict of all layers of which the weights say that something is wrong."""
    ties = [layer.tie(layer.gate) for layer in every]
    untied = [place for place, tie in enumerate(ties) if tie.value <= 3]
    routers = []
    for place, (layer, tie) in enumerate(zip(every, ties, strict=True)):
        foreign = None
        others = [other for other in untied if other != place and every[other].gate.shape == layer.gate.shape]
        if place in untied and others and len(untied) <= 8:
            value, best = max((layer.tie(every[other].gate).value, other) for other in others)
            foreign = ForeignTie(router=str(best), value=value)
        router = Router.model_validate(
            {
                "path": str(place),
                "layer": place,
                "kind": "top-k",
                "module": "",
                "origin": "found",
                "experts": len(layer.gate),
                "top_k": 1,
            }
            | {"score_columns": len(layer.gate), "hidden_size": layer.gate.shape[1]}
        )
        facts = ExpertWeights(coupling=tie.value, tie=tie, foreign=foreign)
        routers.append(RouterEvidence(router=router, experts=facts))
    return {int(p): one.verdict for p, one in row_orders(routers, LIMITS).items() if one.verdict != "tied"}


def whole(every: list[Layer]) -> str:
    """One line about the model: found of all faults, and at how many sound layers something was said."""
    draw, parts = np.random.default_rng(1), []
    for fault in FAULTS:
        if fault == "swapped" and len(every) < 2:
            continue
        found = wrong = planted = 0
        for here in range(len(every)) if fault != "sound" else [0]:
            changed, places = plant(fault, here, every, draw)
            says = judged(changed)
            planted, found, wrong = (
                planted + len(places),
                found + len(places & set(says)),
                wrong + len(set(says) - places),
            )
        parts.append(f"{fault} {found} of {planted}" + (f" ({wrong} falsely)" if wrong else ""))
    return "  by the weights alone: " + ", ".join(parts)


def said(found: RowTie) -> bool:
    """Whether the rows would be called permuted or exchanged."""
    return is_permuted(found, LIMITS) or bool(rings(found, LIMITS))


def measure(here: Layer, every: list[Layer]) -> str:
    """One line."""
    draw = np.random.default_rng(0)
    count = len(here.gate)
    healthy = here.tie(here.gate)
    foreign = [here.tie(gate) for gate in unrelated(here, every, draw)]
    largest = max((ring.gain for ring in healthy.exchanged), default=0.0)
    hits = dict.fromkeys(("all", "half", "pair", "pruned"), 0)
    sure, right = 0, 0
    for _ in range(DRAWS):
        order = draw.permutation(count)
        whole = here.tie(here.gate[order])
        hits["all"] += is_permuted(whole, LIMITS)
        clear = [row for row, gap in enumerate(whole.gap) if gap >= LIMITS.sure_gap]
        sure, right = sure + len(clear), right + sum(whole.owner[row] == order[row] for row in clear)
        half = np.arange(count)
        some = draw.choice(count, count // 2, replace=False)
        half[some] = np.roll(some, 1)
        hits["half"] += is_permuted(here.tie(here.gate[half]), LIMITS)
        one, other = draw.choice(count, 2, replace=False)
        pair = np.arange(count)
        pair[[one, other]] = other, one
        hits["pair"] += any({one, other} == set(ring.rows) for ring in rings(here.tie(here.gate[pair]), LIMITS))
        kept = sorted(draw.choice(count, 3 * count // 4, replace=False).tolist())
        hits["pruned"] += is_permuted(here.tie(here.gate[: len(kept)], kept), LIMITS)
    shares = " ".join(f"{name} {100 * hit // DRAWS:3d} %" for name, hit in hits.items())
    false = sum(map(said, [healthy, *foreign]))
    return (
        f"  layer {here.name:>2} x{count:<3} tie {healthy.value:5.1f} ({_of(healthy.energy)}, {_of(healthy.mean)}) "
        f"lead {healthy.lead:4.2f} kept {healthy.kept:5.2f} gain {largest:4.1f} | unrelated: tie "
        f"{max(one.value for one in foreign):4.1f} lead {max(one.lead for one in foreign):4.2f} | found: {shares} | "
        f"sure {sure / DRAWS / count:.2f} right {right / max(1, sure):.2f} | falsely {false}"
    )


def _of(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    """Print the lines of every folder."""
    torch.set_num_threads(1)
    own = [ROOT / "moeprobe/demo/tiny-deepseek-v4", *sorted((ROOT / "tests/checkpoints").iterdir())]
    for folder in map(Path, sys.argv[1:]) if sys.argv[1:] else own:
        print(folder.name, flush=True)
        every = list(layers(folder))
        for here in every:
            print(measure(here, every), flush=True)
        print(whole(every), flush=True)


if __name__ == "__main__":
    main()
