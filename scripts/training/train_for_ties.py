"""Train the checkpoints on which benchmarks/ties.py was run, and keep them after several numbers of steps.

    apt-get update      # corpus.py then fetches its packages by itself
    python scripts/training/train_for_ties.py qwen64 runs/ties
    python benchmarks/ties.py runs/ties/qwen64-*

The corpus, the tokenizer and the schedule are those of train_checkpoints.py; a model takes 2 to 15 minutes on one
core, one of 128 experts an hour. ``olmoe32`` and ``qwen128`` were kept for testing: no limit was set by them.
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from checkpoint_table import SMALL
from corpus import DEFAULT_CACHE, collect
from routing import balance_loss, bias_step, learned_routers, start_routers, watch
from text_rows import Rows, train_tokenizer
from torch import nn
from train_checkpoints import LARGEST_GRADIENT, balance_biases, log, log_progress, optimizer, rate, write
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

BALANCE = 0.02
RATE = 2e-3
ROWS, LENGTH = 8, 192


@dataclass(frozen=True)
class Plan:
    """What is trained, and after which numbers of steps it is kept."""

    config: Callable[[], PretrainedConfig]
    balance: Literal["loss", "pooled loss", "bias"]
    kept: tuple[int, ...]


def qwen3(experts: int, chosen: int, neurons: int) -> Qwen3MoeConfig:
    """Softmax scores, weights normalised."""
    return Qwen3MoeConfig(
        **SMALL, num_key_value_heads=2, head_dim=16, intermediate_size=128, num_experts=experts,
        num_experts_per_tok=chosen, moe_intermediate_size=neurons, norm_topk_prob=True,
    )  # fmt: skip


def gpt_oss() -> GptOssConfig:
    """The hidden size is twice the intermediate one, as in the published models."""
    return GptOssConfig(
        **SMALL, num_key_value_heads=2, head_dim=16, intermediate_size=32, num_local_experts=32,
        num_experts_per_tok=4, sliding_window=64,
    )  # fmt: skip


def deepseek_v3() -> DeepseekV3Config:
    """Sigmoid scores, one group, a dense first layer."""
    return DeepseekV3Config(
        **SMALL, num_key_value_heads=4, intermediate_size=128, moe_intermediate_size=16, first_k_dense_replace=1,
        n_routed_experts=64, num_experts_per_tok=8, n_shared_experts=1, n_group=1, topk_group=1, norm_topk_prob=True,
        routed_scaling_factor=2.5, q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, num_mtp_layers=0,
    )  # fmt: skip


def mixtral() -> MixtralConfig:
    """Two of sixteen, six layers."""
    six = SMALL | {"num_hidden_layers": 6}
    return MixtralConfig(
        **six, intermediate_size=32, num_key_value_heads=2, num_local_experts=16, num_experts_per_tok=2
    )


def olmoe() -> OlmoeConfig:
    """Weights not normalised, six layers."""
    six = SMALL | {"num_hidden_layers": 6}
    return OlmoeConfig(**six, intermediate_size=24, num_experts=32, num_experts_per_tok=4, norm_topk_prob=False)


PLANS = {
    "qwen64": Plan(lambda: qwen3(64, 8, 16), "loss", (150, 400, 1000)),
    "oss32": Plan(gpt_oss, "pooled loss", (150, 400, 1000)),
    "mix16": Plan(mixtral, "loss", (150, 400, 1000)),
    "ds64": Plan(deepseek_v3, "bias", (400, 1000)),
    "olmoe32": Plan(olmoe, "loss", (400, 1000)),
    "qwen128": Plan(lambda: qwen3(128, 8, 16), "loss", (300, 800)),
}


def start(plan: Plan, rows: Rows, generator: torch.Generator) -> PreTrainedModel:
    """Make a fresh model."""
    model = AutoModelForCausalLM.from_config(plan.config(), dtype=torch.float32, experts_implementation="eager")
    if plan.balance == "pooled loss":  # its routers have another layout
        for router in learned_routers(model).values():
            nn.init.normal_(router.weight, std=router.hidden_dim**-0.5)
    else:
        start_routers(model, rows.token_counts(), generator)
    return model.train()


def train(name: str, plan: Plan, folder: Path, cache: Path) -> None:
    """Train one model and write it after every number of steps of its plan."""
    corpus = collect(cache)
    tokenizer = train_tokenizer(corpus)
    rows = Rows.encode(corpus, tokenizer)
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    model = start(plan, rows, generator)
    steps, adam = plan.kept[-1], optimizer(model, RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate(step, steps))
    with watch(model) as seen:
        for step in range(steps):
            batch = rows.batch(step, ROWS, LENGTH, generator)
            loss = total = model(input_ids=batch, labels=batch, use_cache=False).loss
            if plan.balance == "loss":
                total = loss + BALANCE * sum(map(balance_loss, seen.values()))
            elif plan.balance == "pooled loss":
                first = {"input_ids": batch[:1], "labels": batch[:1]}
                total = loss + BALANCE * model(**first, use_cache=False, output_router_logits=True).aux_loss
            adam.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
            adam.step()
            schedule.step()
            if plan.balance == "bias":
                balance_biases(model, seen, bias_step(step / steps))
            if step % 100 == 0:
                log_progress(name, step, steps, loss, seen, 0.0)
            if step + 1 in plan.kept:
                write(model, tokenizer, folder / f"{name}-{step + 1}")
                model.train()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=PLANS)
    parser.add_argument("folder", type=Path, help="where NAME-STEPS is written")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for packages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(options.name, PLANS[options.name], options.folder, options.cache)
    log.info("written: %s", options.folder)


if __name__ == "__main__":
    main()
