"""How often the detectors are right: plant every fault, look at every look-alike, write the page.

    python benchmarks/detectors.py                       # everything, writes docs/detector-accuracy.md
    python benchmarks/detectors.py --quick               # one strength of each, a few minutes
    python benchmarks/detectors.py --only hash-boundary  # cases whose name matches a regular expression

Cases that were measured with this very code are kept in benchmarks/.cases.jsonl, so an interrupted run goes on
where it stopped.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

from benchmarks.page import page  # noqa: E402
from benchmarks.patient import Patient  # noqa: E402
from benchmarks.plan import plan, seconds  # noqa: E402
from benchmarks.planting import HEALTHY, LOOKALIKES, disguise, plant  # noqa: E402
from benchmarks.scoring import BY_NAME, Case, Scored  # noqa: E402

CACHE = ROOT / "benchmarks/.cases.jsonl"
_PLANTERS = ("patient.py", "fault.py", "planting.py")


def code_digest(case: Case) -> str:
    """Digest of everything that decides what is said about a case: moeprobe, and what plants it."""
    code = BY_NAME[case.name].plant.__code__ if case.fault else HEALTHY.apply.__code__
    return _digest(code.co_filename)


@lru_cache
def _digest(planted_by: str) -> str:
    files = sorted((ROOT / "moeprobe").rglob("*.py")) + [ROOT / "benchmarks" / name for name in _PLANTERS]
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in [*files, Path(planted_by)])).hexdigest()[:16]


def main() -> int:
    """Plan, run what is not known yet, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one strength of each fault, float32 only")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--only", default="", help="regular expression: cases to run, e.g. hash-boundary")
    parser.add_argument("--minutes", type=float, default=0, help="start no further case after so many minutes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/detector-accuracy.md")
    options = parser.parse_args()

    started = time.time()
    cases = plan(options.quick, options.only)
    known = _read(cases)
    todo = [case for case in cases if case.key not in known]
    ahead = sum(map(seconds, todo)) / options.jobs
    _say(f"{len(cases)} cases, {len(cases) - len(todo)} known; at most {ahead / 60:.0f} minutes on free cores")
    with CACHE.open("a", encoding="utf-8") as cache:
        stop = started + 60 * options.minutes if options.minutes else None
        for done, (case, said) in enumerate(_run(todo, options.jobs, stop), start=1):
            known[case.key] = said
            row = {"digest": code_digest(case), "key": case.key, "case": asdict(case), "said": said}
            cache.write(json.dumps(row) + "\n")
            cache.flush()
            if done % 25 == 0 or done == len(todo):
                _say(f"{done} of {len(todo)} ({time.time() - started:.0f} s): {case.key}")
    scored = [Scored(case, said) for case in cases if (said := known.get(case.key)) is not None]
    left_out = sum(case.key not in known for case in cases)
    options.out.write_text(page(scored, _command(options), left_out), encoding="utf-8")
    _say(f"written: {options.out} ({len(scored)} cases that fit a checkpoint)")
    return 0


def _command(options: argparse.Namespace) -> str:
    limit = f"--minutes {options.minutes:g}" if options.minutes else ""
    parts = ["python benchmarks/detectors.py", "--quick" if options.quick else "", limit]
    return " ".join([part for part in parts if part] + ([f"--only {options.only}"] if options.only else []))


def _read(cases: list[Case]) -> dict[str, dict[str, Any] | None]:
    """What is known of these cases; a line that an interruption cut short is left out."""
    if not CACHE.is_file():
        return {}
    wanted = {case.key: code_digest(case) for case in cases}
    known = {}
    for line in CACHE.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            if wanted.get(row["key"]) == row["digest"]:
                known[row["key"]] = row["said"]
    return known


def _run(cases: list[Case], jobs: int, stop: float | None) -> Any:
    if not cases:
        return
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(_one, case) for case in cases]
        try:
            for future in as_completed(futures):
                yield future.result()
                if stop is not None and time.time() > stop:
                    return
        finally:
            pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=10)
def _patient(name: str, dtype: str) -> Patient:
    return Patient(name, dtype)


def _one(case: Case) -> tuple[Case, dict[str, Any] | None]:
    patient = _patient(case.checkpoint, case.dtype)
    if case.fault:
        return case, plant(BY_NAME[case.name], patient, case.strength, case.seed, case.tokens)
    lookalike = next(one for one in LOOKALIKES if one.name == case.name)
    return case, disguise(lookalike, patient, case.tokens, case.loss)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
