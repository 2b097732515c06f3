"""Synthetic evidence of a healthy model, and small changes to it."""

from typing import Any

from moeprobe.detectors.detector import Judgement
from moeprobe.detectors.registry import choose, judge, resolve_limits
from moeprobe.findings.contract import Contract
from moeprobe.findings.evidence import (
    Activations,
    ChoiceTest,
    Evidence,
    Experiments,
    ExtremeLogit,
    GateWeights,
    HashUse,
    Interval,
    Load,
    Logits,
    Magnitudes,
    Probe,
    Quantiles,
    RouterEvidence,
    ScaleCurve,
    ScalePoint,
    Selection,
    Weights,
)
from moeprobe.findings.finding import Check, Finding
from moeprobe.findings.router import Arithmetic, Bias, Declared, Router
from moeprobe.findings.weights import ExpertWeights, GateShape, HashTable, RowTie

EXPERTS, K, TOKENS, VOCABULARY = 16, 4, 8192, 1000
BFLOAT16 = Arithmetic(product="bfloat16", score="float32", selection="float32", weights="bfloat16")
SOURCES = ("c", "dialogue", "english", "german", "python")


def quantiles(median: float) -> Quantiles:
    return Quantiles(p01=median / 4, p05=median / 2, p50=median, p95=median * 2, p99=median * 4)


def around(offset: float, spread: float, experts: int = EXPERTS) -> list[float]:
    """Biases in even steps over offset +- spread / 2."""
    return [offset + spread * (e / (experts - 1) - 0.5) for e in range(experts)]


def bias(values: list[float], dtype: str = "float32", stored: str | None = "float32") -> Bias:
    return Bias(name="e_score_correction_bias", dtype=dtype, stored_dtype=stored, values=values)


def router(layer: int, function: str | None = "sigmoid", kind: str = "top-k", **facts: Any) -> Router:
    defaults: dict[str, Any] = {
        "path": f"model.layers.{layer}.mlp.gate",
        "layer": layer,
        "kind": kind,
        "module": "TopKRouter",
        "experts": EXPERTS,
        "score_columns": EXPERTS,
        "top_k": K,
        "hidden_size": 64,
        "score_function": function,
        "renormalised": True,
        "scaling_factor": 2.5,
        "output_factor": 1.0,
        "fit_error": 1e-6,
        "explaining": [] if function is None else [function],
        "selection_bias": None if kind == "hash" else bias(around(0.0, 0.2)),
        "shared_experts": "shared_experts",
        "arithmetic": Arithmetic(product="float32", score="float32", selection="float32", weights="float32"),
        "declared": Declared(score_function=function, renormalised=True, scaling_factor=2.5),
        "origin": "declared",
        "verified": True,
    }
    return Router.model_validate(defaults | facts)


def shape(**facts: Any) -> GateShape:
    """Shape of a trained gate: far from a random one in its spectrum and norms."""
    defaults: dict[str, Any] = {
        "rows": EXPERTS, "columns": 64, "norm_variation": 0.3, "largest_singular": 1.8, "cosine_rms": 2.5,
        "kurtosis": 4.0,
    }  # fmt: skip
    return GateShape.model_validate(defaults | facts)


RANDOM = shape(norm_variation=0.088, largest_singular=0.97, cosine_rms=1.0, kurtosis=2.95)
"""Shape of independent Gaussian entries."""


def experts(**facts: Any) -> ExpertWeights:
    defaults: dict[str, Any] = {
        "nearest": [1] + [0] * (EXPERTS - 1),
        "cosine": [0.05] * EXPERTS,
        "coupling": 7.0,
    }
    return ExpertWeights.model_validate(defaults | facts)


def row_tie(value: float = 7.0, **facts: Any) -> RowTie:
    """A sound order of rows and experts; ``facts`` change it."""
    defaults: dict[str, Any] = {
        "value": value, "energy": value, "mean": 2.0, "owner": list(range(EXPERTS)), "gap": [3.5] * EXPERTS,
        "lead": 1.6, "kept": 1.0, "exchanged": [],
    }  # fmt: skip
    return RowTie.model_validate(defaults | facts)


def contract(**facts: Any) -> Contract:
    defaults: dict[str, Any] = {
        "executed": TOKENS, "not_returned": 0, "other_weights": 0, "chosen": TOKENS, "other_choice": 0,
        "other_choice_unbiased": TOKENS // 2, "outside_groups": None, "weighed": TOKENS, "other_weighting": 0,
        "other_weighting_biased": TOKENS,
    }  # fmt: skip
    return Contract.model_validate(defaults | facts)


def gate(**facts: Any) -> GateWeights:
    defaults: dict[str, Any] = {
        "dtype": "bfloat16",
        "nonfinite_rows": [],
        "zero_rows": [],
        "identical_rows": [],
        "row_norms": [0.9] * EXPERTS,
        "logit_bound": [40.0] * EXPERTS,
        "hash_table": None,
        "nearest_row": [1] + [0] * (EXPERTS - 1),
        "row_cosine": [0.2] * EXPERTS,
        "shape": shape(),
    }
    return GateWeights.model_validate(defaults | facts)


def table(**facts: Any) -> HashTable:
    defaults: dict[str, Any] = {
        "rows": VOCABULARY,
        "vocabulary": VOCABULARY,
        "out_of_range": 0,
        "rows_with_repeats": 0,
        "constant": False,
        "all_zero": False,
        "unreachable": [],
    }
    return HashTable.model_validate(defaults | facts)


def load(counts: list[int] | None = None, **facts: Any) -> Load:
    counts = counts or [TOKENS * K // EXPERTS] * EXPERTS
    defaults: dict[str, Any] = {
        "counts": counts,
        "by_source": {name: [count // len(SOURCES) for count in counts] for name in SOURCES},
        "source_tokens": dict.fromkeys(SOURCES, TOKENS // len(SOURCES)),
        "max_vio": Interval(value=0.3, low=0.25, high=0.35),
        "max_vio_floor": 0.07,
        "entropy": 0.98,
        "unbiased_counts": counts,
        "unbiased_max_vio": Interval(value=1.2, low=1.0, high=1.4),
        "design_effect": [4.0 if count >= 30 else None for count in counts],
    }
    return Load.model_validate(defaults | facts)


def logits(std: float = 1.0, smallest: float = -5.0, largest: float = 6.0, **facts: Any) -> Logits:
    defaults: dict[str, Any] = {
        "std": quantiles(std),
        "mean": 0.0,
        "smallest": ExtremeLogit(value=smallest, expert=3, token_id=7),
        "largest": ExtremeLogit(value=largest, expert=4, token_id=9),
        "nonfinite": 0,
        "token_share": 0.7,
        "signal_to_rounding": 603.0,
        "selected_below_naive": 0.0,
        "selected_below_clamp": 0.0,
    }
    return Logits.model_validate(defaults | facts)


def selection(**facts: Any) -> Selection:
    defaults: dict[str, Any] = {
        "margin": quantiles(0.2),
        "ties": 0.0,
        "modal": 0.05,
        "bias_only": 0.005,
        "flips_noise": 0.03,
        "flips_float32": 0.02,
    }
    return Selection.model_validate(defaults | facts)


def weights(**facts: Any) -> Weights:
    defaults: dict[str, Any] = {
        "sum": quantiles(2.5),
        "smallest_sum": 2.5,
        "largest_sum": 2.5,
        "promise_smallest": 1.0,
        "promise_largest": 1.0,
        "broken_promises": 0,
        "nonfinite": 0,
        "smallest_chosen_score": 0.05,
    }
    return Weights.model_validate(defaults | facts)


def magnitudes(shared: float | None = 2.2, residual: float = 0.2, **facts: Any) -> Magnitudes:
    defaults: dict[str, Any] = {
        "routed_to_shared": None if shared is None else quantiles(shared),
        "routed_to_residual": quantiles(residual),
        "routed_nonfinite": 0,
        "routed_zero": 0,
        "input_rms": 1.0,
        "routed_rms": 0.4,
        "input_token_spread": 0.9,
    }
    return Magnitudes.model_validate(defaults | facts)


def activations(hashed: bool = False, **facts: Any) -> Activations:
    defaults: dict[str, Any] = {
        "tokens": TOKENS,
        "documents": 60,
        "distinct_ids": 900,
        "load": load(),
        "logits": logits(),
        "selection": None if hashed else selection(),
        "weights": weights(),
        "magnitudes": magnitudes(shared=4.3 if hashed else 2.2),
        "hash_use": HashUse(mismatches=0, predicted_counts=load().counts) if hashed else None,
        "contract": contract(chosen=0, other_choice=None, other_choice_unbiased=None) if hashed else contract(),
    }
    return Activations.model_validate(defaults | facts)


def learned(
    layer: int = 0,
    function: str | None = "sigmoid",
    facts: dict[str, Any] | None = None,
    gate_facts: dict[str, Any] | None = None,
    expert_facts: dict[str, Any] | None = None,
    weights_only: bool = False,
    **shown: Any,
) -> RouterEvidence:
    """A healthy learned router; ``facts`` change the router, ``gate_facts`` its weights, the rest what was shown."""
    return RouterEvidence(
        router=router(layer, function, **(facts or {})),
        weights=gate(**(gate_facts or {})),
        experts=experts(**(expert_facts or {})),
        activations=None if weights_only else activations(**shown),
    )


def hashed(layer: int = 0, table_facts: dict[str, Any] | None = None, **shown: Any) -> RouterEvidence:
    return RouterEvidence(
        router=router(layer, "sqrtsoftplus", "hash"),
        weights=gate(hash_table=table(**(table_facts or {}))),
        experts=experts(),
        activations=activations(hashed=True, **shown),
    )


def curve(best: float = 1.0, gain: float = 0.2, path: str | None = None, loss: float = 2.0, **facts: Any) -> ScaleCurve:
    defaults: dict[str, Any] = {
        "router": path,
        "points": [ScalePoint(multiplier=1.0, loss=loss), ScalePoint(multiplier=best, loss=loss - gain)],
        "best": best,
        "interior": True,
        "gain": gain,
        "standard_error": 0.01,
        "sources_gaining": 5,
        "sources": 5,
        "documents": 20,
        "tokens": 6144,
    }
    return ScaleCurve.model_validate(defaults | facts)


def choice(low: float = 0.04, high: float = 0.08, layer: int = 0, **facts: Any) -> ChoiceTest:
    """What the choice of a layer is worth; ``low`` and ``high`` are the ends of the rise."""
    defaults: dict[str, Any] = {
        "router": f"model.layers.{layer}.mlp.gate",
        "rise": Interval(value=(low + high) / 2, low=low, high=high),
        "stir": 0.4,
        "removed": 0.07,
        "share": Interval(value=0.85, low=0.7, high=1.0),
        "repetitions": 2,
        "documents": 56,
        "sources": 8,
        "tokens": 7168,
    }
    return ChoiceTest.model_validate(defaults | facts)


def evidence(*routers: RouterEvidence, experiments: Experiments | None = None, probed: bool = True) -> Evidence:
    probe = Probe(
        name="builtin",
        documents=60,
        sources=dict.fromkeys(SOURCES, 12),
        tokens=TOKENS,
        tokens_by_source=dict.fromkeys(SOURCES, TOKENS // len(SOURCES)),
        max_length=512,
        truncated=0,
    )
    return Evidence(
        model_type="synthetic",
        dtype="bfloat16",
        routers=list(routers),
        experiments=experiments,
        probe=probe if probed else None,
    )


def judged(seen: Evidence, *names: str, limits: dict[str, dict[str, float]] | None = None) -> Judgement:
    return judge(seen, choose(names), resolve_limits(limits))


def run(detector: str, *routers: RouterEvidence, **options: Any) -> tuple[list[Check], list[Finding]]:
    """Checks and findings of one detector on these routers."""
    limits = options.pop("limits", None)
    probed = not all(r.activations is None for r in routers)
    result = judged(evidence(*routers, probed=probed, **options), detector, limits=limits and {detector: limits})
    return result.checks, result.findings


def problems(findings: list[Finding]) -> list[tuple[str, str]]:
    """Severity and cause of what is not an info."""
    return [(found.severity, found.cause) for found in findings if found.severity != "info"]
