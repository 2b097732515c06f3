"""The numbers that reports show, by name, and which of them each detector looks at.

A new detector gets its evidence table by one line in ``EVIDENCE``.
"""

from collections.abc import Callable
from statistics import median

from moeprobe.findings.evidence import Backward, ChoiceTest
from moeprobe.reporting.readers import (
    Quantity,
    at,
    evenness,
    interquartile,
    largest,
    largest_bound,
    of_bias,
    of_design,
    of_load,
    of_rows,
    of_share,
    spread,
)
from moeprobe.reporting.words import interval, number

_A = "activations."
_LOGITS, _CHOICE = f"{_A}logits.", f"{_A}selection."
_SIZE, _SUMS, _TABLE = f"{_A}magnitudes.", f"{_A}weights.", "weights.hash_table."
_RULE, _SHAPE, _DRIFT = f"{_A}contract.", "weights.shape.", "drift."

QUANTITIES: dict[str, Quantity] = {
    "kind": Quantity("kind", at("router.kind")),
    "score": Quantity("score function", at("router.score_function")),
    "factor": Quantity("factor", at("router.scaling_factor")),
    "gate_dtype": Quantity("gate dtype", at("weights.dtype")),
    "directions": Quantity("directions of the rows", at("weights.directions")),
    "distinct": Quantity("distinct among neighbours", at("weights.distinct")),
    "norm_gain": Quantity("norm gain", at("weights.norm.rms")),
    "zero_rows": Quantity("zero rows", at("weights.zero_rows")),
    "identical_rows": Quantity("identical row pairs", at("weights.identical_rows")),
    "nonfinite_rows": Quantity("non-finite rows", at("weights.nonfinite_rows")),
    "row_norm_min": Quantity("smallest row norm", of_rows(min)),
    "row_norm_median": Quantity("median row norm", of_rows(median)),
    "row_norm_max": Quantity("largest row norm", of_rows(max)),
    "logit_bound": Quantity("largest possible logit", largest_bound),
    "table_rows": Quantity("table rows", at(f"{_TABLE}rows")),
    "table_outside": Quantity("ids out of range", at(f"{_TABLE}out_of_range")),
    "table_repeats": Quantity("rows with repeats", at(f"{_TABLE}rows_with_repeats")),
    "table_unreachable": Quantity("experts unreachable", at(f"{_TABLE}unreachable")),
    "table_busiest": Quantity("ids of the busiest expert", at(f"{_TABLE}busiest.share")),
    "hash_mismatches": Quantity("choices off the table", at(f"{_A}hash_use.mismatches")),
    "tokens": Quantity("tokens", at(f"{_A}tokens")),
    "documents": Quantity("documents", at(f"{_A}documents")),
    "distinct_ids": Quantity("token ids", at(f"{_A}distinct_ids")),
    "std": Quantity("logit std, median", at(f"{_LOGITS}std.p50")),
    "std_spread": Quantity("logit std (5 to 95 %)", spread(f"{_LOGITS}std")),
    "logit_mean": Quantity("mean logit", at(f"{_LOGITS}mean")),
    "logit_min": Quantity("smallest logit", at(f"{_LOGITS}smallest.value")),
    "logit_max": Quantity("largest logit", at(f"{_LOGITS}largest.value")),
    "logit_nonfinite": Quantity("non-finite logits", at(f"{_LOGITS}nonfinite")),
    "token_share": Quantity("variance from the token", at(f"{_LOGITS}token_share")),
    "rounding": Quantity("signal to rounding", at(f"{_LOGITS}signal_to_rounding")),
    "below_naive": Quantity("chosen below -16.64", at(f"{_LOGITS}selected_below_naive")),
    "below_clamp": Quantity("chosen below -13.82", at(f"{_LOGITS}selected_below_clamp")),
    "margin": Quantity("margin, median", at(f"{_CHOICE}margin.p50")),
    "margin_spread": Quantity("margin (5 to 95 %)", spread(f"{_CHOICE}margin")),
    "ties": Quantity("ties", at(f"{_CHOICE}ties")),
    "modal": Quantity("modal set", at(f"{_CHOICE}modal")),
    "bias_only": Quantity("set is the bias's own", at(f"{_CHOICE}bias_only")),
    "flips_noise": Quantity("flips under noise", at(f"{_CHOICE}flips_noise")),
    "flips_float32": Quantity("flips in float32", at(f"{_CHOICE}flips_float32")),
    "weight_sum": Quantity("weight sum, median", at(f"{_SUMS}sum.p50")),
    "weight_sum_min": Quantity("smallest weight sum", at(f"{_SUMS}smallest_sum")),
    "weight_sum_max": Quantity("largest weight sum", at(f"{_SUMS}largest_sum")),
    "promise_min": Quantity("sum / promised, least", at(f"{_SUMS}promise_smallest"), digits=5),
    "promise_max": Quantity("sum / promised, most", at(f"{_SUMS}promise_largest"), digits=5),
    "broken": Quantity("broken promises", at(f"{_SUMS}broken_promises")),
    "weights_nonfinite": Quantity("non-finite weights", at(f"{_SUMS}nonfinite")),
    "chosen_min": Quantity("smallest chosen score", at(f"{_SUMS}smallest_chosen_score")),
    "shared": Quantity("routed / shared", at(f"{_SIZE}routed_to_shared.p50")),
    "residual": Quantity("routed / residual", at(f"{_SIZE}routed_to_residual.p50")),
    "shared_spread": Quantity("routed / shared (5 to 95 %)", spread(f"{_SIZE}routed_to_shared")),
    "residual_spread": Quantity("routed / residual (5 to 95 %)", spread(f"{_SIZE}routed_to_residual")),
    "routed_nonfinite": Quantity("non-finite outputs", at(f"{_SIZE}routed_nonfinite")),
    "routed_zero": Quantity("zero outputs", at(f"{_SIZE}routed_zero")),
    "input_rms": Quantity("input RMS", at(f"{_SIZE}input_rms")),
    "routed_rms": Quantity("routed RMS", at(f"{_SIZE}routed_rms")),
    "input_spread": Quantity("input spread over tokens", at(f"{_SIZE}input_token_spread")),
    "load_min": Quantity("least used, fair shares", of_share(min)),
    "load_max": Quantity("most used, fair shares", of_share(max)),
    "unseen": Quantity("experts not seen", of_load(lambda counts: counts.count(0) if sum(counts) else None)),
    "evenness": Quantity("evenness of load", of_load(evenness)),
    "design_effect": Quantity("tokens worth one, median", of_design(median)),
    "design_effect_max": Quantity("tokens worth one, most", of_design(max)),
    "max_vio": Quantity("MaxVio", at(f"{_A}load.max_vio.value")),
    "max_vio_floor": Quantity("sampling floor", at(f"{_A}load.max_vio_floor")),
    "max_vio_unbiased": Quantity("MaxVio without bias", at(f"{_A}load.unbiased_max_vio.value")),
    "bias_dtype": Quantity("bias dtype", at("router.selection_bias.dtype")),
    "bias_stored": Quantity("stored as", at("router.selection_bias.stored_dtype")),
    "bias_offset": Quantity("bias offset (median)", of_bias(median)),
    "bias_spread": Quantity("bias, max - min", of_bias(lambda bias: max(bias) - min(bias))),
    "bias_iqr": Quantity("bias, interquartile", of_bias(interquartile)),
    "balance_law": Quantity("balance law, correlation", at(f"{_A}balance_law.correlation")),
    "balance_slope": Quantity("balance law, slope", at(f"{_A}balance_law.slope")),
    "product": Quantity("product in", at("router.arithmetic.product")),
    "choice_in": Quantity("selection in", at("router.arithmetic.selection")),
    "not_returned": Quantity("other experts ran", at(f"{_RULE}not_returned")),
    "other_weights": Quantity("other weights ran", at(f"{_RULE}other_weights")),
    "other_choice": Quantity("choice off the rule", at(f"{_RULE}other_choice")),
    "outside_groups": Quantity("outside the groups", at(f"{_RULE}outside_groups")),
    "other_weighting": Quantity("weights off the rule", at(f"{_RULE}other_weighting")),
    "other_biased": Quantity("off the biased scores", at(f"{_RULE}other_weighting_biased")),
    "fit_error": Quantity("error of the fit", at("router.fit_error")),
    "identical_experts": Quantity("groups of equal experts", at("experts.identical")),
    "expert_cosine": Quantity("expert cosine, largest", largest("experts.cosine"), digits=5),
    "row_cosine": Quantity("gate row cosine, largest", largest("weights.row_cosine"), digits=5),
    "coupling": Quantity("rows tied to experts (sigma)", at("experts.coupling")),
    "norm_variation": Quantity("variation of row norms", at(f"{_SHAPE}norm_variation")),
    "largest_singular": Quantity("largest singular value / random", at(f"{_SHAPE}largest_singular")),
    "cosine_rms": Quantity("row cosines / random", at(f"{_SHAPE}cosine_rms")),
    "kurtosis": Quantity("kurtosis", at(f"{_SHAPE}kurtosis")),
    "kept_experts": Quantity("experts kept", at(f"{_DRIFT}overlap.value")),
    "same_sets": Quantity("same sets", at(f"{_DRIFT}same_sets.value")),
    "firm_sets": Quantity("same sets by margin", at(f"{_DRIFT}firm_sets.value")),
    "firm_kept": Quantity("experts kept by margin", at(f"{_DRIFT}firm_overlap.value")),
    "own_sets": Quantity("same sets, gate alone", at(f"{_DRIFT}own_sets.value")),
    "weight_l1": Quantity("weights, L1", at(f"{_DRIFT}weight_l1.value")),
    "load_tv": Quantity("load, TV", at(f"{_DRIFT}load_tv.value")),
    "load_tv_floor": Quantity("floor of TV", at(f"{_DRIFT}load_tv_floor")),
    "rows_changed": Quantity("table rows changed", at(f"{_DRIFT}table_changed")),
    "information": Quantity("information from the id", at(f"{_A}token_ids.information")),
    "information_null": Quantity("shuffled", at(f"{_A}token_ids.shuffled")),
}

EVIDENCE: dict[str, tuple[str, ...]] = {
    "flat-scores": (
        "std", "ties", "rounding", "modal", "token_share", "input_spread",
        "zero_rows", "identical_rows", "directions",
    ),
    "bias-runaway": (
        "bias_dtype", "bias_stored", "bias_offset", "bias_spread", "bias_iqr", "bias_only",
        "max_vio", "max_vio_unbiased", "balance_law",
    ),
    "sqrt-nan": (
        "score", "nonfinite_rows", "logit_min", "logit_max", "logit_bound", "promise_min", "promise_max", "broken",
        "logit_nonfinite", "weights_nonfinite", "routed_nonfinite",
    ),
    "scale-mismatch": ("factor", "weight_sum", "promise_min", "promise_max", "shared", "residual", "norm_gain"),
    "hash-boundary": (
        "kind", "table_outside", "table_repeats", "table_unreachable", "table_busiest", "hash_mismatches",
        "flips_noise", "margin", "std", "residual", "input_rms", "routed_rms",
    ),
    "dead-experts": ("tokens", "documents", "design_effect", "design_effect_max", "load_min", "unseen", "evenness"),
    "overloaded-experts": (
        "tokens", "documents", "design_effect", "design_effect_max", "load_max", "max_vio", "max_vio_floor",
    ),
    "low-precision-routing": ("product", "choice_in", "flips_float32", "rounding", "margin", "distinct"),
    "broken-contract": (
        "score", "fit_error", "not_returned", "other_weights", "other_choice", "outside_groups",
        "other_weighting", "other_biased",
    ),
    "permuted-experts": ("kind", "std", "evenness", "coupling"),
    "duplicate-experts": ("identical_experts", "expert_cosine", "identical_rows", "row_cosine"),
    "routing-drift": (
        "kept_experts", "firm_kept", "same_sets", "firm_sets", "own_sets", "weight_l1", "load_tv", "load_tv_floor",
        "rows_changed",
    ),
    "untrained-gate": ("coupling", "norm_variation", "largest_singular", "cosine_rms", "kurtosis"),
}  # fmt: skip
"""Which numbers each detector looks at, in the order of its table."""

CHOICE: dict[str, Callable[[ChoiceTest], str]] = {
    "rise (99 %)": lambda test: interval(test.rise),
    "stir": lambda test: number(test.stir),
    "rise without the branch": lambda test: number(test.removed),
    "share (99 %)": lambda test: interval(test.share),
    "documents": lambda test: number(test.documents),
    "tokens": lambda test: number(test.tokens),
}
"""What random experts in one layer did: columns of permuted-experts."""

GRADIENT: dict[str, Callable[[Backward], str]] = {
    "tokens with a zero score": lambda tried: number(tried.tokens),
    "non-finite gradients": lambda tried: number(tried.nonfinite) if tried.tokens else "not needed",
}
"""The backward pass through the router alone: columns of sqrt-nan."""
