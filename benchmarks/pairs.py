"""Two faults in one model are two findings: plant every pair at two layers, and count.

    python benchmarks/pairs.py                        # every pair in every checkpoint: some hours
    python benchmarks/pairs.py --sample 40            # so many of each checkpoint, half of them the same fault twice
    python benchmarks/pairs.py --only qwen2 --minutes 10

Each pair is held against what its two faults say alone. *Due* are faults that stand alone and are not hidden by values
that are not finite; *kept* those that stand in the pair as well, the others follow a finding or are not found beside
the other fault; *one too many* are findings that stand in the pair and with neither fault alone.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

from benchmarks.pairing import Outcome, Planted, Said, pairs, sample, try_pair  # noqa: E402
from benchmarks.patient import CHECKPOINTS, Patient  # noqa: E402


def main() -> int:
    """Try the pairs, print what went wrong and how often."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=0, help="pairs of each checkpoint; 0: all of them")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--only", default="", help="regular expression: checkpoints to damage")
    parser.add_argument("--minutes", type=float, default=0, help="start no further pair of a checkpoint after so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in CHECKPOINTS:
        if not re.search(options.only, name):
            continue
        patient, started, done = Patient(name, "float32"), time.time(), []
        chosen = sample(patient, options.sample, options.seed) if options.sample else list(pairs(patient))
        alone: dict[Planted, Said] = {}
        for pair in chosen:
            if options.minutes and time.time() - started > 60 * options.minutes:
                break
            done.append(try_pair(patient, pair, alone))
            _complain(name, done[-1])
        print(f"{name}: {_summary(done)} ({len(chosen) - len(done)} not tried)", flush=True)
    return 0


def _complain(name: str, outcome: Outcome) -> None:
    where = f"{name}, {' + '.join(f'{one.name} in layer {one.layer}' for one in outcome.pair)}"
    for how, missing in (("is found, but follows", outcome.demoted), ("is not found", outcome.unsaid)):
        for one in missing:
            print(f"  {where}: {one.name} in layer {one.layer} {how}", flush=True)
    for found in outcome.blamed:
        print(f"  {where}: one too many, {found.severity} {found.detector}: {found.message}", flush=True)


def _summary(done: list[Outcome]) -> str:
    due, demoted = sum(len(one.due) for one in done), sum(len(one.demoted) for one in done)
    unsaid, extra = sum(len(one.unsaid) for one in done), sum(bool(one.blamed) for one in done)
    return (
        f"{len(done)} pairs, {due} faults due: {due - demoted - unsaid} kept, {demoted} follow, {unsaid} not found; "
        f"{extra} pairs with one finding too many"
    )


if __name__ == "__main__":
    sys.exit(main())
