"""Every table in full, folded."""

from collections.abc import Sequence

from moeprobe.findings.evidence import ExtremeLogit, RouterEvidence
from moeprobe.findings.result import Result
from moeprobe.reporting.depth import depth
from moeprobe.reporting.document import Document, Heading, folded, joined, table, used_columns
from moeprobe.reporting.readers import fair_shares
from moeprobe.reporting.sheets import sheet
from moeprobe.reporting.text import code, plain
from moeprobe.reporting.words import MISSING, number

_SHEETS: dict[str, tuple[str, ...]] = {
    "What was seen": ("tokens", "documents", "distinct_ids", "load_min", "load_max", "unseen", "evenness"),
    "Logits": (
        "std_spread", "logit_mean", "token_share", "rounding", "below_naive", "below_clamp",
        "logit_nonfinite",
    ),
    "Choice": ("margin_spread", "ties", "modal", "bias_only", "flips_noise", "flips_float32"),
    "Routing weights": (
        "weight_sum", "weight_sum_min", "weight_sum_max", "promise_min", "promise_max", "broken",
        "chosen_min", "weights_nonfinite",
    ),
    "Norms": (
        "shared_spread", "residual_spread", "input_rms", "routed_rms", "input_spread", "routed_zero",
        "routed_nonfinite",
    ),
    "Gate weights": (
        "gate_dtype", "row_norm_min", "row_norm_median", "row_norm_max", "logit_bound", "zero_rows",
        "identical_rows", "nonfinite_rows",
    ),
    "Hash tables": ("table_rows", "table_outside", "table_repeats", "table_unreachable", "hash_mismatches"),
    "Token ids and balance": ("information", "information_null", "balance_law", "balance_slope"),
}  # fmt: skip


def tables(result: Result) -> Document:
    """All folded tables; those in which nothing was measured are left out."""
    routers = result.evidence.routers
    sheets = {title: sheet(routers, names) for title, names in _SHEETS.items()}
    bodies = {
        "Routers": _routers(routers),
        "Extreme logits": _extremes(routers),
        "Fullest expert by source": _sources(routers),
    }
    return joined(Heading(2, "Tables"), *(folded(title, body) for title, body in (bodies | sheets).items()))


def _routers(routers: Sequence[RouterEvidence]) -> Document:
    axis = depth(routers)
    rows = []
    for router in (one.router for one in routers):
        ran = router.arithmetic
        dtypes = (ran.product, ran.score, ran.selection, ran.weights) if ran else ()
        rows.append(
            {
                axis.heading: axis.names[router.path],
                "path": code(router.path),
                "class": code(router.module),
                "selection bias": code(router.selection_bias.name) if router.selection_bias else MISSING,
                "shared experts": code(router.shared_experts) if router.shared_experts else MISSING,
                "found": plain(router.origin),
                "verified": number(router.verified),
                "fit error": number(router.fit_error),
                "selection agrees": number(router.selection_agreement),
                "dtypes: logits, score, choice, weights": ", ".join(plain(d or MISSING) for d in dtypes) or MISSING,
                "remark": plain(router.reason) or MISSING,
            }
        )
    return table(used_columns(rows))


def _extremes(routers: Sequence[RouterEvidence]) -> Document:
    axis = depth(routers)
    rows = []
    for one in routers:
        logits = one.activations.logits if one.activations else None
        if logits:
            ends = {"smallest": logits.smallest, "largest": logits.largest}
            rows.append(
                {axis.heading: axis.names[one.router.path]}
                | {f"{end}{part}": text for end, found in ends.items() for part, text in _extreme(found).items()}
            )
    return table(used_columns(rows))


def _extreme(found: ExtremeLogit | None) -> dict[str, str]:
    token = found.token_id if found else None
    return {
        "": number(found.value if found else None),
        ", expert": MISSING if found is None else str(found.expert),
        ", token id": MISSING if token is None else str(token),
    }


def _sources(routers: Sequence[RouterEvidence]) -> Document:
    """Show the fullest expert of each source, in fair shares of that source."""
    axis = depth(routers)
    loads = {one.router.path: one.activations.load.by_source for one in routers if one.activations}
    sources = dict.fromkeys(source for load in loads.values() for source in load)
    return table(
        [
            {axis.heading: axis.names[path]} | {plain(source): _fullest(load.get(source, [])) for source in sources}
            for path, load in loads.items()
            if sources
        ]
    )


def _fullest(counts: Sequence[int]) -> str:
    shares = fair_shares(counts)
    return f"{number(max(shares))} (expert {shares.index(max(shares))})" if shares else MISSING
