"""Synthetic results: numbers that could have been measured, made from a fixed seed."""

import json
import random
from collections.abc import Sequence
from typing import Any

from moeprobe.findings.evidence import (
    Activations,
    BalanceLaw,
    Evidence,
    Experiments,
    ExtremeLogit,
    GateWeights,
    HashTable,
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
    TokenIds,
    Weights,
)
from moeprobe.findings.finding import Check, Finding
from moeprobe.findings.result import Environment, Model, Result, Unchecked
from moeprobe.findings.router import Arithmetic, Bias, Declared, Groups, Router
from tests.reporting.sample_facts import BUSIEST, CONTRACT, EXPERTS, SHAPE, VALUES

DETECTORS = ("flat-scores", "bias-runaway", "sqrt-nan", "scale-mismatch", "hash-boundary")
CODES = dict(zip(DETECTORS, ("MP101", "MP201", "MP301", "MP401", "MP501"), strict=True))
HOSTILE = "evil|`x`<script>alert(1)</script>\n](http://x) **b** $a$"


def healthy() -> Result:
    """Six layers, the first two with hash tables, nothing found."""
    return result(layers=6, experts=16, top_k=4, hashed=2)


def sick() -> Result:
    """The same with a flat gate in three layers and what follows, a runaway bias, a wrong scale."""
    base = result(layers=6, experts=16, top_k=4, hashed=2, flat=(2, 3, 5), runaway=4, best=1.414)
    spreads = {layer: _logits(base, layer).std.p50 for layer in (2, 3, 5)}
    found = [
        _finding(
            "flat-scores",
            layer,
            quantity="median logit spread",
            measured=spread,
            limit=0.01,
            limit_name="flat-scores.std_error",
            message=f"Layer {layer}: the logits of a token differ by {spread:.3g} over the experts.",
            cause="gate weights are (nearly) zero",
        )
        for layer, spread in spreads.items()
    ]
    found.append(
        _finding(
            "scale-mismatch",
            None,
            quantity="best multiplier",
            measured=1.414,
            limit=1.6,
            limit_name="scale-mismatch.best_high",
            message="All layers: the loss is least with the routed branch times 1.41.",
            cause="a routed scaling factor that was lost",
        )
    )
    found.append(
        _finding(
            "bias-runaway",
            4,
            severity="warning",
            experts=[3, 7],
            quantity="experts never chosen",
            measured=2,
            message="Layer 4: the selection bias outweighs any score, so experts 3 and 7 are never chosen.",
            cause="the selection bias outweighs any score (never chosen)",
        )
    )
    found.append(
        _finding(
            "sqrt-nan",
            4,
            quantity="non-finite outputs",
            measured=12,
            message="Layer 4: 12 tokens leave the routed branch as NaN.",
            cause="NaN from below",
            follows=path(3),
        )
    )
    found.append(
        _finding(
            "brand-new",
            1,
            severity="warning",
            code="MP999",
            quantity="oddness",
            measured=float("inf"),
            limit=2.0,
            message="Layer 1: its oddness is infinite.",
            cause="nobody knows",
        )
    )
    found.append(
        _finding(
            "bias-runaway",
            2,
            severity="info",
            quantity="offset over interquartile range",
            measured=31.0,
            message="Layer 2: the selection bias has a common offset of 5.1; harmless.",
            cause="offset",
        )
    )
    return judged(base, found)


def large() -> Result:
    """61 layers of 384 experts, three of them hash layers, one expert overloaded in layer 30."""
    base = result(layers=61, experts=384, top_k=8, hashed=3, groups=Groups(count=8, kept=4, score="max", fill="-inf"))
    found = [
        _finding(
            "hash-boundary",
            layer,
            severity="warning",
            quantity="flips under noise",
            measured=base.evidence.routers[layer].activations.selection.flips_noise,  # type: ignore[union-attr]
            limit=0.1,
            limit_name="hash-boundary.flips",
            message=f"Layer {layer}: the choice changes under noise more often than 3 times elsewhere.",
            cause="the handover to learned routing",
        )
        for layer in (3, 4, 5, 9)
    ]
    return judged(base, found)


def weights_only() -> Result:
    """Nothing ran: no activations, no experiments, no probe."""
    whole = healthy()
    routers = [one.model_copy(update={"activations": None}) for one in whole.evidence.routers]
    evidence = whole.evidence.model_copy(update={"routers": routers, "experiments": None, "probe": None})
    checks = [
        check.model_copy(update={"verdict": "skipped", "reason": "needs a forward pass"})
        if check.detector in ("sqrt-nan", "scale-mismatch")
        else check
        for check in whole.checks
    ]
    return whole.model_copy(update={"evidence": evidence, "checks": checks})


def hostile() -> Result:
    """Every name from outside tries to break out of its place."""
    whole = sick()
    data = json.loads(whole.model_dump_json(exclude={"findings"}))
    data["model"].update(name=HOSTILE, source=HOSTILE, revision=HOSTILE, architecture=HOSTILE)
    data["environment"]["command"] = "moeprobe analyze '```\n<script>'"
    for router in data["evidence"]["routers"]:
        router["router"].update(module=HOSTILE, shared_experts=HOSTILE, reason=HOSTILE)
        router["activations"]["load"]["by_source"] = {HOSTILE: router["activations"]["load"]["counts"]}
    last = data["evidence"]["routers"][-1]["router"]
    last.update(path=HOSTILE, layer=None)
    data["evidence"]["probe"].update(name=HOSTILE, sources={HOSTILE: 3}, tokens_by_source={HOSTILE: 100})
    data["checks"].append({"detector": HOSTILE, "router": HOSTILE, "verdict": "failed", "reason": HOSTILE})
    data["not_checked"].append({"what": HOSTILE, "why": HOSTILE})
    data["findings"] = [
        one.model_dump(exclude={"fingerprint"})
        | {"message": HOSTILE, "cause": HOSTILE, "remedy": HOSTILE, "quantity": HOSTILE, "detector": HOSTILE}
        for one in whole.findings
    ]
    return Result.model_validate(data)


def path(layer: int) -> str:
    """Module path of the router in a layer."""
    return f"model.layers.{layer}.mlp.gate"


def result(layers: int, experts: int, top_k: int, hashed: int, **faults: Any) -> Result:
    """A result without findings; ``faults`` are those of ``_router`` and ``best``, the best multiplier."""
    best = faults.pop("best", 1.0)
    dice = random.Random(7)
    routers = [_router(dice, layer, experts, top_k, layer < hashed, **faults) for layer in range(layers)]
    curves = [_curve(None, best), _curve(layers - 1, 1.0)]
    bare = Result(
        model=Model(
            source="example/moe-sample", name="moe-sample", revision="0123abcd" * 5, model_type="deepseek_v4",
            architecture="DeepseekV4ForCausalLM", dtype="bfloat16", parameters=4_210_000_000,
            router_parameters=3_100_000, files=4, bytes=8_420_000_000,
        ),
        evidence=Evidence(
            model_type="deepseek_v4",
            dtype="bfloat16",
            routers=routers,
            experiments=Experiments(loss=2.8125, loss_tokens=49_000, scale=curves),
            probe=Probe(
                name="builtin", documents=50, sources={"prose": 20, "code": 20, "mathematics": 10},
                tokens=49_152,
                tokens_by_source={"prose": 20_000, "code": 20_152, "mathematics": 9_000},
                max_length=1024, truncated=3,
            ),
        ),
        checks=[],
        findings=[],
        not_checked=[Unchecked(what="Routing against a base model", why="no base model was given")],
        recipe={"name": "full", "probe": {"texts": "builtin", "max_tokens": 65536}, "select": [], "seed": 0},
        limits={"flat-scores": {"std_error": 0.01, "std_warning": 0.05}, "hash-boundary": {"flips": 0.1}},
        environment=Environment(
            moeprobe="0.1.0", python="3.11.7", torch="2.9.0", transformers="5.23.0", platform="Linux x86_64",
            device="cpu", experts_implementation="eager", command="moeprobe analyze example/moe-sample",
            started="2026-01-02T03:04:05+00:00", seconds=81.25,
        ),
    )  # fmt: skip
    return judged(bare, [])


def judged(base: Result, findings: Sequence[Finding]) -> Result:
    """The result with these findings, worst first, and the checks that go with them."""
    found = {(one.detector, one.router) for one in findings if one.severity != "info"}
    kinds = {one.router.path: one.router.kind for one in base.evidence.routers}
    names = dict.fromkeys([*DETECTORS, *(one.detector for one in findings)])
    checks = []
    for detector in names:
        for router, kind in kinds.items():
            skipped = detector == "flat-scores" and kind == "hash"
            verdict = "finding" if (detector, router) in found else "skipped" if skipped else "clean"
            reason = "a hash table chooses here, not the scores" if skipped else ""
            checks.append(Check(detector=detector, router=router, verdict=verdict, reason=reason))
    if ("scale-mismatch", None) in found:
        checks.append(Check(detector="scale-mismatch", router=None, verdict="finding"))
    order = ("error", "warning", "info")
    return base.model_copy(
        update={"findings": sorted(findings, key=lambda one: order.index(one.severity)), "checks": checks}
    )


def _finding(detector: str, layer: int | None, **values: Any) -> Finding:
    given = {
        "code": CODES.get(detector, ""),
        "severity": "error",
        "remedy": "Compare the tensor with the base checkpoint and restore it",
    }
    return Finding(detector=detector, router=None if layer is None else path(layer), layer=layer, **(given | values))


def _logits(base: Result, layer: int) -> Logits:
    shown = base.evidence.routers[layer].activations
    assert shown
    assert shown.logits
    return shown.logits


def _router(
    dice: random.Random,
    layer: int,
    experts: int,
    top_k: int,
    by_hash: bool,
    flat: Sequence[int] = (),
    runaway: int | None = None,
    groups: Groups | None = None,
) -> RouterEvidence:
    bias = [5 + dice.gauss(0, 0.08) for _ in range(experts)]
    if layer == runaway:
        bias[3] = bias[7] = 3.2
    tensor = Bias(name="e_score_correction_bias", dtype="float32", stored_dtype="float32", values=bias)
    router = Router(
        path=path(layer), layer=layer, kind="hash" if by_hash else "top-k", experts=experts,
        score_columns=experts,
        module="DeepseekV4HashRouter" if by_hash else "DeepseekV4TopKRouter", top_k=top_k, hidden_size=512,
        score_function="sqrtsoftplus", renormalised=True, scaling_factor=2.500001, fit_error=3e-7,
        selection_agreement=None if by_hash else 1.0, selection_bias=None if by_hash else tensor,
        groups=None if by_hash else groups, shared_experts="shared_experts",
        origin="found" if by_hash else "declared",
        arithmetic=Arithmetic(product="bfloat16", score="float32", selection="float32", weights="bfloat16"),
        declared=Declared(scaling_factor=2.5, renormalised=layer != 1), verified=True,
    )  # fmt: skip
    table = HashTable(
        rows=32_000, vocabulary=32_000, out_of_range=0, rows_with_repeats=0, constant=False, all_zero=False,
        unreachable=[], busiest=BUSIEST,
    )  # fmt: skip
    weights = GateWeights(
        dtype="bfloat16", nonfinite_rows=[], zero_rows=[], identical_rows=[],
        row_norms=[0.9 + dice.random() / 5 for _ in range(experts)], logit_bound=None,
        hash_table=table if by_hash else None,
    )  # fmt: skip
    shown = _activations(dice, layer, experts, by_hash, layer in flat, (3, 7) if layer == runaway else ())
    weights = weights.model_copy(update={"row_cosine": [0.2] * experts, "shape": SHAPE, **VALUES})
    return RouterEvidence(router=router, weights=weights, experts=EXPERTS, activations=shown)


def _activations(
    dice: random.Random, layer: int, experts: int, by_hash: bool, flat: bool, never: Sequence[int]
) -> Activations:
    counts = [0 if e in never else int(800 * dice.lognormvariate(0, 0.5)) for e in range(experts)]
    if experts > 100:
        counts[layer % experts] = 0
        counts[(7 * layer) % experts] *= 20 if layer == 30 else 4
    worst = max(counts) * experts / sum(counts) - 1
    std = dice.uniform(0.9, 1.4) * (0.004 if flat else 1)
    boundary = layer in (3, 4, 5, 9) and experts > 100
    load = Load(
        counts=counts, by_source={"prose": [n // 2 for n in counts], "code": [n - n // 2 for n in counts]},
        source_tokens={"prose": 24_000, "code": 25_000},
        max_vio=Interval(value=worst, low=worst * 0.9, high=worst * 1.15), max_vio_floor=0.12, entropy=2.5,
        unbiased_counts=None if by_hash else counts,
        unbiased_max_vio=None if by_hash else Interval(value=worst * 1.2), design_effect=[4.0] * experts,
    )  # fmt: skip
    logits = Logits(
        std=_quantiles(std), mean=-0.31, smallest=ExtremeLogit(value=-9.81, expert=2, token_id=15_213),
        largest=ExtremeLogit(value=7.4, expert=1, token_id=None), nonfinite=0,
        token_share=dice.uniform(0.5, 0.9),
        signal_to_rounding=590.0 * std, selected_below_naive=0.0, selected_below_clamp=0.0,
    )  # fmt: skip
    selection = Selection(
        margin=_quantiles(dice.uniform(0.05, 0.2)), ties=0.0, modal=dice.uniform(0.001, 0.05),
        bias_only=dice.uniform(0, 0.02),
        flips_noise=dice.uniform(0.11, 0.2) if boundary else dice.uniform(0.01, 0.03),
        flips_float32=0.04,
    )  # fmt: skip
    return Activations(
        tokens=49_152, documents=50, distinct_ids=4_321, load=load, logits=logits,
        selection=None if by_hash else selection,
        weights=Weights(
            sum=_quantiles(2.5), smallest_sum=2.49, largest_sum=2.51,
            promise_smallest=0.998, promise_largest=1.003,
            broken_promises=0, nonfinite=0, smallest_chosen_score=0.011,
        ),
        magnitudes=Magnitudes(
            routed_to_shared=_quantiles(dice.uniform(0.5, 2)),
            routed_to_residual=_quantiles(dice.uniform(0.05, 0.3)),
            routed_nonfinite=0, routed_zero=0, input_rms=1.02, routed_rms=0.21, input_token_spread=0.8,
        ),
        balance_law=None if by_hash else BalanceLaw(correlation=0.93, slope=0.4),
        token_ids=TokenIds(information=0.8, shuffled=0.21, entropy=2.5, ids=4_321, tokens=49_152),
        hash_use=HashUse(mismatches=0, predicted_counts=counts) if by_hash else None,
        contract=CONTRACT,
    )  # fmt: skip


def _quantiles(middle: float) -> Quantiles:
    return Quantiles(p01=middle * 0.3, p05=middle * 0.5, p50=middle, p95=middle * 1.8, p99=middle * 2.2)


def _curve(layer: int | None, best: float) -> ScaleCurve:
    grid = [0.25, 0.354, 0.5, 0.707, 0.841, 1.0, 1.189, 1.414, 2.0, 2.828, 4.0]
    points = [ScalePoint(multiplier=m, loss=2.78 + 0.2 * (m / best - 1) ** 2 / (m / best)) for m in grid]
    at_one = points[5].loss
    return ScaleCurve(
        router=None if layer is None else path(layer), points=points, best=best, interior=True,
        gain=at_one - min(point.loss for point in points), standard_error=0.002,
        sources_gaining=3 if best != 1 else 0, sources=3, documents=50, tokens=49_000,
    )  # fmt: skip
