"""What the source documents name: each system, where its rule is measured from, and what only a paper can say."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moeprobe.gates.capacity import gshard_top2
from moeprobe.gates.decision import Decision
from moeprobe.gates.noisy import noisy_top_k
from moeprobe.gates.scored import softmax_top_k

Reference = Callable[[Tensor], Decision]


@dataclass(frozen=True)
class System:
    """One row.

    ``cases`` are cases of the zoo that are run, ``gate`` a reference gate that is run instead. Where neither is there,
    ``told`` has the rule as the source says it: score function, weights, bias, groups, shared experts. ``sizes``,
    ``balance`` and ``source`` are told, never measured.
    """

    name: str
    sizes: str
    balance: str
    source: str
    cases: tuple[str, ...] = ()
    gate: Reference | None = None
    shared: str = "-"
    told: tuple[str, str, str, str, str] | None = None


def _noisy(logits: Tensor) -> Decision:
    return noisy_top_k(logits, None, None, 4)


def _gshard(logits: Tensor) -> Decision:
    return gshard_top2(logits, capacity=logits.shape[0])


def _megablocks(logits: Tensor) -> Decision:
    return softmax_top_k(logits, 2, renormalise=False)


SYSTEMS: tuple[System, ...] = (
    System(
        "noisy top-k (2017)", "up to 131,072; k 4", "losses on importance and load, noise on the logits", "1701.06538",
        gate=_noisy,
    ),
    System(
        "GShard", "up to 2,048; k 2", "auxiliary loss, capacity, second expert at random", "2006.16668", gate=_gshard,
    ),
    System("Switch", "up to 2,048; k 1", "auxiliary loss, capacity, jitter", "2101.03961", ("switch_transformers",)),
    System(
        "GLaM", "64; k 2", "auxiliary loss and capacity, as GShard", "2112.06905",
        told=("softmax", "not checked", "-", "-", "-"),
    ),
    System(
        "ST-MoE", "32 and 64; k 2", "auxiliary loss, router z-loss, capacity", "2202.08906",
        told=("softmax", "not checked", "-", "-", "-"),
    ),
    System("NLLB", "128; k 2", "auxiliary loss, capacity", "2207.04672", ("nllb_moe",)),
    System(
        "MegaBlocks", "free", "auxiliary loss; no capacity, nothing dropped", "2211.15841; databricks/megablocks",
        gate=_megablocks,
    ),
    System("DBRX", "16; k 4", "auxiliary loss", "its model card", ("dbrx",)),
    System(
        "OpenMoE", "32; k 2", "auxiliary loss, router z-loss, capacity", "2402.01739",
        told=("softmax", "not checked", "-", "-", "not checked"),
    ),
    System("Mixtral", "8; k 2", "auxiliary loss (transformers)", "2401.04088", ("mixtral",)),
    System(
        "Grok-1", "8; k 2", "not published", "xai-org/grok-1, model.py",
        told=("softmax", "as scored", "-", "-", "-"),
    ),
    System("OLMoE", "64; k 8", "auxiliary loss, router z-loss", "2409.02060", ("olmoe",)),
    System("Qwen1.5-MoE, Qwen2-MoE", "60 and 64; k 4 and 8", "auxiliary loss", "2407.10671", ("qwen2_moe",)),
    System("Qwen3-MoE", "128; k 8", "auxiliary loss over the global batch", "2505.09388", ("qwen3_moe",)),
    System(
        "DeepSeek-V2", "64 and 160; k 6", "auxiliary losses for experts, devices and communication", "2405.04434",
        ("deepseek_v2:greedy", "deepseek_v2"),
    ),
    System(
        "DeepSeek-V3", "256; k 8", "sign rule on the bias, a small sequence-wise auxiliary loss", "2412.19437",
        ("deepseek_v3",),
    ),
    System(
        "DeepSeek-V4", "256 and 384; k 6", "a bias as V3's and a small auxiliary loss; the hash layers need none",
        "config of transformers", ("deepseek_v4",),
    ),
    System("Llama 4", "16 and 128; k 1", "auxiliary loss (transformers)", "its model card", ("llama4:text",)),
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A statement of the source documents about a gate; ``holds`` looks for it in the measured rows.

    ``text`` says the statement, ``truth`` what was found instead. A claim that turned out to hold must not stand here.
    """

    system: str
    text: str
    truth: str
    holds: Callable[[dict[str, str]], bool]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "DeepSeek-V2", "DeepSeek-V2 scores with a sigmoid", "a softmax, without a bias and without renormalising",
        lambda row: row["score"] == "sigmoid",
    ),
    Claim(
        "Qwen3-MoE", "Qwen3-MoE: sigmoid, top-6, a shared expert", "a softmax, renormalised, top-8, no shared expert",
        lambda row: "sigmoid" in row["score"] or row["shared"] != "-",
    ),
    Claim(
        "Qwen1.5-MoE, Qwen2-MoE", "Qwen2-MoE has no shared expert", "it has one, behind a sigmoid gate of its own",
        lambda row: row["shared"] == "-",
    ),
    Claim(
        "Llama 4", "Llama 4: softmax, top 1 to 2, no shared expert",
        "a sigmoid of the top-1 logit, applied to the expert's input, and a shared expert",
        lambda row: row["score"] == "softmax" or row["shared"] == "-",
    ),
    Claim(
        "DeepSeek-V3", "s = sigmoid(W x + b): the bias stands inside the sigmoid, and TopK(s) is weighted by it",
        "the bias is added to the finished score, for the choice alone; the weights do not hold it",
        lambda row: row["bias"] == "-" or row["bias"].endswith("on logits"),
    ),
    Claim(
        "DeepSeek-V3", "V3 normalises the scores and selects among the normalised ones",
        "it selects by score plus bias, and divides the chosen scores by their sum afterwards: the weights are "
        "renormalised over the chosen",
        lambda row: row["weights"] != "renormalised",
    ),
    Claim(
        "NLLB", "NLLB among the models with a sigmoid, for variants of it",
        "a softmax top-2 in the published model; no such variant is known here",
        lambda row: "sigmoid" in row["score"],
    ),
    Claim(
        "MegaBlocks", "MegaBlocks among the models with a sigmoid, for studies made with it",
        "its own router is a softmax over all experts, with an optional norm over the chosen ones",
        lambda row: "sigmoid" in row["score"],
    ),
    Claim(
        "DeepSeek-V4", "V4 is the only model without an auxiliary loss",
        "V3 balances in the same way, both keep a small auxiliary loss, and {biased} of the {families} families of "
        "docs/families.md have a selection bias",
        lambda row: "auxiliary loss" not in row["balance"],
    ),
)  # fmt: skip


def logits() -> Tensor:
    """What the reference gates are run on, [tokens, experts]."""
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
