"""Where the time of `moeprobe check` on the bundled checkpoint goes: importing, or anything else.

    python benchmarks/startup.py --runs 5

Every run is a process of its own, as in a pipeline. It first imports torch, transformers and what transformers imports
for a model of this type (the same as a script would that only loads the model), then moeprobe, then checks with the
recipe quick; functions of moeprobe are timed from outside, each without those that it calls. *the model alone* is
another process, which loads the model and reads the same batches without a hook or a router being looked at:
no check can do with less. Seconds are those of the processor, on one thread, since another process on the machine does
not lengthen them much; of several runs the least counts.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

IMPORTS = ("torch", "transformers", "transformers for this model")
PARTS = (
    "moeprobe itself", "opening and loading", "texts to tokens", "forward passes and recording", "statistics",
    "judging", "writing",
)  # fmt: skip
MODEL = "the model alone: loading, forward passes"


class Clock:
    """Time by part; what runs inside another part does not count for that one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Any:
        """Count the time until the end of the block, less that of parts within."""
        started = time.process_time()
        self._open.append(0.0)
        yield
        spent = time.process_time() - started
        self.seconds[name] += spent - self._open.pop()
        if self._open:
            self._open[-1] += spent

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count every call of a function for a part."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.part(name):
                return inner(*arguments, **keywords)

        setattr(owner, attribute, timed)


def prepared(clock: Clock) -> Path:
    """Import what the model needs; give the folder of the bundled checkpoint."""
    with clock.part("torch"):
        import torch

        torch.set_num_threads(1)
    with clock.part("transformers"):
        import transformers
    from moeprobe.demo.catalogue import checkpoint_folder

    folder = checkpoint_folder()
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    with clock.part("transformers for this model"):
        transformers.AutoTokenizer.from_pretrained(folder)
        getattr(transformers, architecture)
    return folder


def check() -> dict[str, float]:
    """Check the bundled checkpoint in this fresh process."""
    clock = Clock()
    folder = prepared(clock)
    with clock.part("moeprobe itself"):
        import moeprobe.cli.check as cli
        from moeprobe import measure, pipeline
        from moeprobe.cli import outputs
        from moeprobe.statistics.collect import Collector

    clock.watch(pipeline, "open_model", "opening and loading")
    clock.watch(pipeline, "load_documents", "texts to tokens")
    clock.watch(pipeline, "make_batches", "texts to tokens")
    clock.watch(pipeline, "measure", "forward passes and recording")
    for name in ("update", "activations"):
        clock.watch(Collector, name, "statistics")
    for name in ("gate_weights", "expert_weights"):
        clock.watch(measure, name, "statistics")
    clock.watch(pipeline, "judge", "judging")
    clock.watch(outputs, "deliver", "writing")
    with contextlib.redirect_stdout(io.StringIO()), clock.part("moeprobe itself"):
        cli.command.main([str(folder), "--recipe", "quick", "--quiet"], standalone_mode=False)
    return dict(clock.seconds)


def model_alone() -> dict[str, float]:
    """Load the model and let it read what the check reads, in this fresh process."""
    clock = Clock()
    folder = prepared(clock)
    import torch

    from moeprobe.checkpoint.load import load_model, load_tokenizer
    from moeprobe.checkpoint.open import open_checkpoint
    from moeprobe.probes.batches import make_batches
    from moeprobe.probes.texts import load_documents
    from moeprobe.recipe import load_recipe

    probe = load_recipe("quick").probe
    checkpoint = open_checkpoint(folder)
    reader = load_tokenizer(checkpoint)
    batches = make_batches(load_documents(probe.texts), reader, probe, len(reader))
    with torch.no_grad(), clock.part(MODEL):
        live = load_model(checkpoint).model
        for batch in batches:
            live(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return {MODEL: clock.seconds[MODEL]}


def page(runs: list[dict[str, float]]) -> str:
    """The least time of every part, and its ratio to the imports."""
    least = {name: min(run[name] for run in runs) for name in (*IMPORTS, *PARTS, MODEL)}
    imports, rest = (sum(least[name] for name in names) for names in (IMPORTS, PARTS))
    rows = [(name, least[name], least[name] / imports) for name in (*IMPORTS, *PARTS)]
    rows += [("all imports", imports, 1.0), ("everything else", rest, rest / imports)]
    rows += [(MODEL, least[MODEL], least[MODEL] / imports)]
    rows += [("everything else, less the model alone", rest - least[MODEL], (rest - least[MODEL]) / imports)]
    return tabulate(rows, headers=("part", "seconds", "of the imports"), tablefmt="pipe", floatfmt=".2f")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=["check", "model"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(check() if options.only == "check" else model_alone()))
        return

    def run(what: str) -> dict[str, float]:
        command = [sys.executable, str(Path(__file__)), "--only", what]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found

    print(page([run("check") | run("model") for _ in range(options.runs)]))


if __name__ == "__main__":
    main()
