"""Train the tiny checkpoints that moeprobe ships and is tested on.

    apt-get update      # corpus.py then fetches its packages by itself
    python scripts/training/train_checkpoints.py
    python scripts/training/train_checkpoints.py --only mixtral --threads 2

Needs torch, transformers, tokenizers and safetensors, and a Debian with network access
to its own mirror and to PyPI (see corpus.py). A checkpoint takes 4 to 20 minutes
on one core. A folder is replaced only by a finished checkpoint.
"""

import argparse
import logging
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from checkpoint_report import Report, Training, card, measure
from checkpoint_table import CHECKPOINTS, LONGEST_ROW, Checkpoint
from corpus import DEFAULT_CACHE, CorpusError, collect
from routing import (
    Routing,
    balance_loss,
    bias_step,
    learned_routers,
    max_violation,
    start_routers,
    update_selection_bias,
    watch,
)
from text_rows import Rows, train_tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

WARMUP_STEPS = 50
LOWEST_RATE = 0.05
LONG_ROWS_FROM = 0.8
LARGEST_GRADIENT = 1.0
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.05

log = logging.getLogger("train")


def rate(step: int, steps: int) -> float:
    """Give the learning rate as a share of its peak: warm-up, then a cosine."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def row_shape(step: int, steps: int) -> tuple[int, int]:
    """Give rows and length of a batch; long rows come late, when they are worth their cost."""
    if step < LONG_ROWS_FROM * steps:
        return 8, LONGEST_ROW // 2
    return 4, LONGEST_ROW


def optimizer(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """Make AdamW with weight decay on matrices alone."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS)


def balance_biases(model: nn.Module, seen: dict[int, Routing], step: float) -> None:
    """Apply the sign rule in every learned layer."""
    for layer, router in learned_routers(model).items():
        update_selection_bias(router.e_score_correction_bias, seen[layer].counts(), step)


def train(checkpoint: Checkpoint, rows: Rows, steps: int, seed: int) -> tuple[PreTrainedModel, Training]:
    """Train a fresh model in float32."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = checkpoint.config()
    # At these sizes a plain loop over experts beats the batched kernels on a CPU.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="eager")
    start_routers(model, rows.token_counts(), generator)
    model.train()
    adam = optimizer(model, checkpoint.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate(step, steps))
    tokens = 0
    started = time.monotonic()
    with watch(model) as seen:
        for step in range(steps):
            batch = rows.batch(step, *row_shape(step, steps), generator)
            tokens += batch.numel()
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            total = loss
            if checkpoint.balance == "loss":
                total = loss + config.router_aux_loss_coef * sum(map(balance_loss, seen.values()))
            adam.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
            adam.step()
            schedule.step()
            if checkpoint.balance == "bias":
                balance_biases(model, seen, bias_step(step / steps))
            if step % 25 == 0 or step == steps - 1:
                log_progress(checkpoint.name, step, steps, loss, seen, time.monotonic() - started)
    return model, Training(steps, tokens, seed)


def log_progress(name: str, step: int, steps: int, loss: Tensor, seen: dict[int, Routing], seconds: float) -> None:
    """Log one line about the latest step."""
    loads = " ".join(f"{max_violation(routing.counts()):.2f}" for routing in seen.values())
    log.info("%s step %d/%d loss %.3f MaxVio %s %.0f s", name, step + 1, steps, loss.item(), loads, seconds)


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save in bfloat16, except what the architecture itself keeps in float32.

    transformers decides on loading which tensors (selection biases among them) stay in
    float32, so the rounding is done by loading.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        rounded = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.bfloat16)
    rounded.config._name_or_path = ""
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read


def make(checkpoint: Checkpoint, rows: Rows, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> Report:
    """Train, save, measure and describe one checkpoint; put it in place when all is done."""
    model, training = train(checkpoint, rows, steps, seed)
    target = checkpoint.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".training-") as scratch:
        folder = Path(scratch) / "new"
        write(model, tokenizer, folder)
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        report = measure(saved, rows)
        text = card(checkpoint, type(saved).__name__, training, report)
        (folder / "README.md").write_text(text, encoding="utf-8")
        if target.exists():
            target.rename(Path(scratch) / "old")
        folder.rename(target)
    return report


def megabytes(folder: Path) -> float:
    """Give the size of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def log_report(checkpoint: Checkpoint, report: Report) -> bool:
    """Log what was measured; tell whether the checkpoint is as wanted."""
    size = megabytes(checkpoint.path)
    log.info("%s: %s", checkpoint.folder, report)
    log.info(
        "%s: loss %.3f, unigram %.3f, MaxVio %s, bias range %s, best multiplier %s, %.2f MB",
        checkpoint.name, report.loss, report.unigram_loss,
        [round(value, 3) for value in report.violation_by_layer.values()],
        [round(value, 3) for value in report.bias_range_by_layer.values()],
        report.best_multiplier, size,
    )  # fmt: skip
    faults = report.shortcomings()
    if size > checkpoint.largest_megabytes:
        faults.append(f"{size:.2f} MB is more than {checkpoint.largest_megabytes} MB")
    for fault in faults:
        log.warning("%s: %s", checkpoint.name, fault)
    return not faults


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [checkpoint.name for checkpoint in CHECKPOINTS]
    parser.add_argument("--only", choices=names, metavar="NAME", help=f"train one of {', '.join(names)}")
    parser.add_argument("--steps", type=int, help="training steps, for a quick trial")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for packages and logs")
    return parser.parse_args()


def main() -> None:
    """Train the checkpoints asked for."""
    options = arguments()
    torch.set_num_threads(options.threads)
    options.cache.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[
            logging.StreamHandler(),
            logging.FileHandler(options.cache / f"{options.only or 'train'}.log", mode="w"),
        ],
    )
    try:
        corpus = collect(options.cache)
    except CorpusError as error:
        sys.exit(f"train: {error}")
    tokenizer = train_tokenizer(corpus)
    rows = Rows.encode(corpus, tokenizer)
    log.info("%d training tokens; held-out unigram loss %.3f", sum(map(len, rows.train)), rows.unigram_loss())
    good = True
    for checkpoint in CHECKPOINTS:
        if options.only in (None, checkpoint.name):
            report = make(checkpoint, rows, tokenizer, options.steps or checkpoint.steps, options.seed)
            good &= log_report(checkpoint, report)
    if not good:
        sys.exit("train: a checkpoint falls short; see the warnings above")


if __name__ == "__main__":
    main()
