"""How far routing drifts when nothing is wrong: other dtypes and noise on the weights, on the trained checkpoints.

    python benchmarks/drift.py --out docs/routing-drift.md

The limits of routing-drift stand above the first rows of this table and below the last. Takes some ten minutes on
two cores.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moeprobe.checkpoint.load import load_model, load_tokenizer
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.checkpoint.quiet import quiet_transformers
from moeprobe.comparison import diff
from moeprobe.demo.catalogue import checkpoint_folder
from moeprobe.findings.result import Result
from moeprobe.probes.texts import load_documents
from moeprobe.reporting.words import number
from moeprobe.routers.find import find_sites

ROOT = Path(__file__).parent.parent
TOKENS = 16_384
MODELS = {"deepseek_v4": checkpoint_folder()} | {
    name: ROOT / "tests/checkpoints" / name for name in ("deepseek_v3", "mixtral", "qwen2_moe", "qwen3_moe")
}

PAGE = """# How far routing drifts

Written by `python benchmarks/drift.py --out docs/routing-drift.md`. Each trained checkpoint of this repository in
float32 against a changed copy of itself, on 16,384 tokens: another dtype, Gaussian noise on every weight matrix (its
size relative to the matrix's root mean square), 60 steps of Adam on the seven German documents at a fixed rate, and
one gate whose rows were shifted by one place. Every number is that of the worst layer of the model. *By margin*
is the share of same sets weighted by the base's margin (it is reported and not judged), *gate alone* the share of same
sets when both gates read the changed model's inputs, *floor* the total variation of the load between two samples of
documents of one model, *load ratio* the largest change of an expert's load (from a factor of 2 on), *warnings* the
findings of [routing-drift](detectors/routing-drift.md) with its default limits.

The limits lie between bfloat16 or gentle training (1e-4 and below) and ten times that rate. They are no measure of
quality: whether the loss suffered is another question, see the detector's page.
"""

BY_CHOICE = "## Whatever the number of chosen experts"
"""Heading of what drift_by_choice.py gives; it stays when this table is written anew."""

Change = Callable[[PreTrainedModel, PreTrainedTokenizerBase], None]


def noise(size: float) -> Change:
    """Gaussian noise on every weight matrix, ``size`` times its own root mean square."""

    def change(model: PreTrainedModel, _: PreTrainedTokenizerBase) -> None:
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                scale = size * parameter.float().square().mean().sqrt()
                parameter += (scale * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)

    return change


def tuned(rate: float, steps: int = 60) -> Change:
    """Training on the German documents alone with Adam, everything trainable, at a fixed learning rate."""

    def change(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        texts = [document.text for document in load_documents("builtin") if document.source == "german"]
        rows = [tokenizer(text, truncation=True, max_length=256, return_tensors="pt")["input_ids"] for text in texts]
        trained = [parameter.requires_grad_() for parameter in model.parameters() if parameter.is_floating_point()]
        optimiser = torch.optim.Adam(trained, lr=rate)
        with torch.enable_grad():
            for step in range(steps):
                ids = rows[step % len(rows)]
                optimiser.zero_grad()
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()

    return change


def permuted(model: PreTrainedModel, _: PreTrainedTokenizerBase) -> None:
    """The rows of one gate in another order, in the middle of the learned layers."""
    learned = [site.router for site in find_sites(model) if not hasattr(site.router, "tid2eid")]
    gate = learned[len(learned) // 2]
    weight = next(parameter for name, parameter in gate.named_parameters() if name.endswith("weight"))
    weight.copy_(weight.roll(1, dims=0))


CHANGES: dict[str, tuple[str, Change | None]] = {
    "bfloat16": ("bfloat16", None),
    "noise of 0.1 %": ("float32", noise(0.001)),
    "noise of 1 %": ("float32", noise(0.01)),
    "noise of 3 %": ("float32", noise(0.03)),
    "noise of 10 %": ("float32", noise(0.1)),
    "noise of 30 %": ("float32", noise(0.3)),
    "60 steps at 1e-5": ("float32", tuned(1e-5)),
    "60 steps at 1e-4": ("float32", tuned(1e-4)),
    "60 steps at 1e-3": ("float32", tuned(1e-3)),
    "60 steps at 1e-2": ("float32", tuned(1e-2)),
    "one gate permuted": ("float32", permuted),
}


def compare(source: Path, dtype: str, change: Change | None) -> Result:
    """The checkpoint in float32 against a changed copy of itself."""
    if change is None:
        return diff(source, source, dtype=dtype, base_dtype="float32", max_tokens=TOKENS)
    checkpoint = open_checkpoint(source)
    model = load_model(checkpoint, dtype="float32").model
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        tokenizer = load_tokenizer(checkpoint)
        with torch.no_grad():
            change(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return diff(source, folder, dtype="float32", max_tokens=TOKENS)


def row(model: str, what: str, result: Result) -> dict[str, str]:
    """The worst router of each quantity, and the loss on the probe."""
    found = [one.drift for one in result.evidence.routers if one.drift is not None]
    shifts = [max(shift.ratio.value, 1 / shift.ratio.value) for drift in found for shift in drift.shifts]
    return {
        "model": model,
        "change": what,
        "same sets": number(min(drift.same_sets.value for drift in found)),
        "experts kept": number(min(drift.overlap.value for drift in found)),
        "by margin": number(min(drift.firm_sets.value for drift in found if drift.firm_sets)),
        "gate alone": number(min(drift.own_sets.value for drift in found if drift.own_sets)),
        "weights, L1": number(max(drift.weight_l1.value for drift in found if drift.weight_l1)),
        "logits": number(max(drift.logits.value for drift in found if drift.logits)),
        "load, TV": number(max(drift.load_tv.value for drift in found)),
        "floor": number(max(drift.load_tv_floor or 0.0 for drift in found)),
        "load ratio": number(max(shifts, default=None)),
        "warnings": str(len(result.problems)),
    }


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="Changes whose name contains this.")
    options = parser.parse_args()
    out, rows = options.out, []
    for model, source in MODELS.items():
        for what, (dtype, change) in CHANGES.items():
            if options.only in what:
                rows.append(row(model, what, compare(source, dtype, change)))
                print("  ".join(rows[-1].values()), flush=True)
    sides = ("left", "left", *["right"] * (len(rows[0]) - 2)) if rows else ()
    written = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=sides)
    if out is not None:
        rest = out.read_text(encoding="utf-8").partition(BY_CHOICE)[2] if out.exists() else ""
        out.write_text(f"{PAGE}\n{written}\n" + (f"\n{BY_CHOICE}{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
