"""Each statistic against numbers worked out another way."""

import math

import numpy as np
import pytest
import torch

from moeprobe.statistics.histogram import Scale
from moeprobe.statistics.intervals import max_vio_interval, uniform_floor
from tests.statistics.test_merge import EXPERTS, SOURCES, K, collect, gate, record


def seen(records, path: str = "layers.1.gate"):
    found = collect(records).activations(path)
    assert found is not None
    return found


RECORDS = [record(i, 200, False) for i in range(5)]
LOGITS = torch.cat([r.logits for r in RECORDS]).double()
EXPERT_IDS = torch.cat([r.experts for r in RECORDS])


def test_load() -> None:
    load = seen(RECORDS).load
    counts = np.bincount(EXPERT_IDS.flatten(), minlength=EXPERTS)
    assert load.counts == counts.tolist()
    assert load.max_vio.value == pytest.approx(counts.max() / counts.mean() - 1)
    assert load.max_vio.low is None
    assert load.source_tokens == {"a": 400, "b": 400, "c": 200}
    assert sum(load.by_source["c"]) == 200 * K
    share = counts / counts.sum()
    assert load.entropy == pytest.approx(-(share * np.log(share)).sum() / math.log(EXPERTS))


def test_logits() -> None:
    logits = seen(RECORDS).logits
    std = LOGITS.std(dim=-1, correction=0)
    assert logits.std.p50 == pytest.approx(float(std.median()), rel=0.06)
    assert logits.mean == pytest.approx(float(LOGITS.mean()), rel=1e-6)
    assert logits.smallest.value == pytest.approx(float(LOGITS.min()), rel=1e-6)
    row, expert = divmod(int(LOGITS.argmin()), EXPERTS)
    assert logits.smallest.expert == expert
    assert logits.smallest.token_id == int(torch.cat([r.token_ids for r in RECORDS])[row])
    centred = LOGITS - LOGITS.mean(dim=-1, keepdim=True)
    share = float(centred.var(dim=0, correction=0).mean() / centred.square().mean())
    assert logits.token_share == pytest.approx(share, rel=1e-6)


def test_selection() -> None:
    selection = seen(RECORDS).selection
    sets = [tuple(sorted(row)) for row in EXPERT_IDS.tolist()]
    most = max(sets.count(s) for s in set(sets))
    assert selection.modal == pytest.approx(most / len(sets))
    best = tuple(sorted(gate().selection_bias.topk(K).indices.tolist()))
    assert selection.bias_only == pytest.approx(sets.count(best) / len(sets))
    assert selection.ties == 0
    assert selection.flips_float32 == 0
    assert 0 < selection.flips_noise < 0.1


def test_weights() -> None:
    weights = seen(RECORDS).weights
    assert weights.smallest_sum == pytest.approx(2, rel=1e-6)
    assert weights.sum.p50 == pytest.approx(2, rel=1e-6)
    assert weights.promise_largest == pytest.approx(1, rel=1e-6)
    assert weights.broken_promises == 0


def test_magnitudes() -> None:
    sizes = seen(RECORDS).magnitudes
    ratio = torch.cat([r.routed / r.shared for r in RECORDS])
    assert sizes.routed_to_shared.p50 == pytest.approx(float(ratio.median()), rel=0.06)
    inputs = torch.cat([r.inputs for r in RECORDS]).double()
    spread = math.sqrt(1 - float(inputs.mean(dim=0).square().mean() / inputs.square().mean()))
    assert sizes.input_token_spread == pytest.approx(spread, rel=1e-6)


def test_token_ids_of_a_hash_router_say_everything() -> None:
    found = seen([record(i, 400, False, "hash") for i in range(5)])
    assert found.hash_use.mismatches == 0
    assert found.hash_use.predicted_counts == found.load.counts
    assert found.selection is None
    assert found.token_ids.information > 5 * found.token_ids.shuffled


def test_balance_law_of_a_bias_that_was_balanced() -> None:
    """The sign rule settles where b = const - Q(1 - k/E) (docs/science.md B2); run it, then read it."""
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(20_000, 32, generator=generator) + torch.randn(32, generator=generator)).sigmoid()
    bias = torch.zeros(32)
    for step in range(1500):
        counts = torch.bincount((scores + bias).topk(4).indices.flatten(), minlength=32).float()
        bias += 5e-3 * (1 - step / 1500) * (counts.mean() - counts).sign()
    quantile = scores.quantile(1 - 4 / 32, dim=0)
    expected = float(np.corrcoef(bias, -quantile)[0, 1])
    assert expected > 0.97

    from dataclasses import replace

    from moeprobe.findings.router import Bias
    from moeprobe.statistics.balance_law import BalanceLawStatistic
    from moeprobe.statistics.observation import Observation

    fact = Bias(name="b", dtype="float32", stored_dtype=None, values=bias.tolist())
    router = gate().router.model_copy(update={"selection_bias": fact, "score_columns": 32, "experts": 32, "top_k": 4})
    statistic = BalanceLawStatistic(router)
    base = record(0, 2, False)
    one = replace(base, router=router, gate=base.gate.with_router(router), inputs=None, logits=scores.logit())
    statistic.update(Observation(one))
    assert statistic.value().correlation == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("tokens", [128, 2048, 8192])
def test_uniform_floor_is_what_a_uniform_router_shows(tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    seen = [
        torch.bincount(torch.rand(tokens, 64, generator=generator).topk(8).indices.flatten(), minlength=64)
        for _ in range(40)
    ]
    shown = float(torch.stack([c.max() / c.double().mean() - 1 for c in seen]).mean())
    assert uniform_floor(tokens, 64, 8) == pytest.approx(shown, rel=0.12)


def test_interval_needs_documents() -> None:
    clusters = torch.randint(50, 100, (256, 8), generator=torch.Generator().manual_seed(0))
    clusters[40:] = 0
    assert max_vio_interval(clusters, 29).low is None
    interval = max_vio_interval(clusters, 40)
    assert interval.low < interval.high


def test_histogram_quantiles() -> None:
    scale = Scale(1e-6, 1e6)
    values = torch.logspace(-3, 2, 5001, dtype=torch.float64)
    histogram = scale.count(values)
    for q in (0.01, 0.5, 0.99):
        assert scale.quantile(histogram, q) == pytest.approx(float(values.quantile(q)), rel=0.03)
    assert scale.quantile(scale.zeros(), 0.5) is None
    assert scale.quantile(scale.count(torch.tensor([0.0, 0.0])), 0.5) == 0.0
    assert set(SOURCES) == {"a", "b", "c"}
