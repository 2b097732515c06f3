"""Train the checkpoints on which the limits of routing-drift were set: one of 8 to 128 experts, 1 to 8 of them chosen.

    apt-get update      # corpus.py then fetches its packages by itself
    python scripts/training/train_for_drift.py runs/drift
    python benchmarks/drift_by_choice.py runs/drift/*

The corpus, the tokenizer and the schedule are those of train_checkpoints.py; half a minute to five minutes each on one
core. Those of ``TESTING`` were kept for testing: no limit was set by them.
"""

import argparse
import logging
from pathlib import Path

import torch
from checkpoint_table import SMALL
from corpus import DEFAULT_CACHE
from train_checkpoints import log
from train_for_ties import Plan, train
from transformers import Qwen3MoeConfig

STEPS = 250
CALIBRATION = ((1, 8), (2, 8), (4, 8), (6, 8), (4, 32), (8, 64), (2, 64), (8, 128))
TESTING = ((1, 16), (2, 16), (6, 16), (8, 32), (1, 64), (4, 64), (6, 128))


def plan(chosen: int, experts: int) -> Plan:
    """Softmax scores, weights normalised where there is more than one, and about as many neurons in all."""
    three = SMALL | {"num_hidden_layers": 3}
    return Plan(
        lambda: Qwen3MoeConfig(
            **three, num_key_value_heads=2, head_dim=16, intermediate_size=128, num_experts=experts,
            num_experts_per_tok=chosen, moe_intermediate_size=max(8, 256 // experts), norm_topk_prob=chosen > 1,
        ),
        "loss",
        (STEPS,),
    )  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where K-of-E-STEPS is written")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for packages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for chosen, experts in (*CALIBRATION, *TESTING):
        train(f"{chosen}-of-{experts}", plan(chosen, experts), options.folder, options.cache)
        log.info("written: %d of %d", chosen, experts)


if __name__ == "__main__":
    main()
