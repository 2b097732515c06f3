"""How much of the choice gentle and harsh training keep, whatever the number of chosen experts.

    python scripts/training/train_for_drift.py runs/drift
    python benchmarks/drift_by_choice.py runs/drift/*

Each checkpoint against copies of itself that were trained on in German at a fixed rate. *Beyond chance* is the share
of kept choices on a scale where 0 is what independent choices of k of E experts share, k / E, and 1 the same choice.
Every number is that of the worst layer.
"""

import argparse
from pathlib import Path

import torch
from tabulate import tabulate

from benchmarks.drift import Change, compare, noise, permuted, tuned
from moeprobe.detectors.drift_bars import beyond_chance
from moeprobe.findings.evidence import RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.reporting.words import number

CHANGES: dict[str, Change | None] = {
    "bfloat16": None,
    "60 steps at 1e-4": tuned(1e-4),
    "60 steps at 3e-4": tuned(3e-4),
    "60 steps at 1e-3": tuned(1e-3),
    "noise of 30 %": noise(0.3),
    "one gate permuted": permuted,
}


def beyond(one: RouterEvidence, firm: bool) -> float:
    """Share of kept choices of one router, by margin or not, beyond chance."""
    assert one.drift is not None
    share = one.drift.firm_overlap if firm else one.drift.overlap
    found = None if share is None else beyond_chance(share, one.router)
    return 1.0 if found is None else found.value


def row(model: str, what: str, result: Result) -> dict[str, str]:
    """The worst router of each quantity."""
    found = [(one, one.drift) for one in result.evidence.routers if one.drift is not None]
    router = found[0][0].router
    shifts = [max(shift.ratio.value, 1 / shift.ratio.value) for _, drift in found for shift in drift.shifts]
    return {
        "model": model,
        "choice": f"{router.top_k} of {router.score_columns}",
        "change": what,
        "experts kept": number(min(drift.overlap.value for _, drift in found)),
        "same sets by margin": number(min(drift.firm_sets.value for _, drift in found if drift.firm_sets)),
        "kept by margin": number(min(drift.firm_overlap.value for _, drift in found if drift.firm_overlap)),
        "kept, beyond chance": number(min(beyond(one, firm=False) for one, _ in found)),
        "by margin, beyond chance": number(min(beyond(one, firm=True) for one, _ in found)),
        "weights, L1": number(max(drift.weight_l1.value for _, drift in found if drift.weight_l1)),
        "load, TV": number(max(drift.load_tv.value for _, drift in found)),
        "load ratio": number(max(shifts, default=None)),
        "warnings": str(len(result.problems)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="Changes whose name contains this.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for source in options.checkpoints:
        for what, change in CHANGES.items():
            if options.only in what:
                result = compare(source, "bfloat16" if change is None else "float32", change)
                rows.append(row(source.name, what, result))
                print("  ".join(rows[-1].values()), flush=True)
    sides = ("left", "left", "left", *["right"] * (len(rows[0]) - 3))
    print(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=sides))


if __name__ == "__main__":
    main()
