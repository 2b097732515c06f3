"""Fine-tune a small Mixture-of-Experts checkpoint on Python source, at a learning rate of your choice.

    python finetune.py BASE OUTPUT --rate 1e-4

The text is the source of a few modules of the running Python, so nothing is downloaded. Thirty steps of AdamW on
rows of 128 tokens, everything trained, no warm-up and no clipping: at a rate of 1e-4 the routing stays what it was,
at 5e-2 nearly all tokens of a layer end at the same few experts. docs/ci.md tells how `moeprobe check` sees that.
"""

import argparse
import calendar
import csv
import heapq
import inspect
import shlex
import statistics
import textwrap
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

MODULES = (argparse, calendar, csv, heapq, shlex, statistics, textwrap)
STEPS = 30
ROWS = 4
LENGTH = 128


def rows_of_text(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Token ids [rows, LENGTH], in random order."""
    text = "\n".join(map(inspect.getsource, MODULES))
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    return rows[torch.randperm(len(rows))]


def finetune(base: str, output: Path, rate: float) -> float:
    """Train, save beside the tokenizer in the base's dtype, and return the loss of the last step."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    stored = AutoModelForCausalLM.from_pretrained(base, dtype="auto").dtype
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = rows_of_text(tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(STEPS):
        batch = rows[torch.arange(step * ROWS, (step + 1) * ROWS) % len(rows)]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.to(stored).save_pretrained(output)
    tokenizer.save_pretrained(output)
    return loss.item()


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("output", type=Path)
    parser.add_argument("--rate", type=float, required=True, help="learning rate")
    given = parser.parse_args()
    logging.disable_progress_bar()
    loss = finetune(given.base, given.output, given.rate)
    print(f"{given.output}: {STEPS} steps at {given.rate:g}, loss {loss:.2f}")


if __name__ == "__main__":
    main()
