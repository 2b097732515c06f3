"""The sample efficiency experiment, at a smaller setting."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.efficiency.fit import cost, fit
from benchmarks.efficiency.page import Run, figure, text, write
from benchmarks.efficiency.regression import EXPERTS, GATES, linearise, predict
from benchmarks.efficiency.study import SMALL, TRUTHS, run, slope
from benchmarks.efficiency.voronoi import idle_expert, voronoi_loss, worst_expert

ROOT = Path(__file__).parent.parent.parent
TRUTH = TRUTHS["A"]


@pytest.fixture(scope="module")
def done() -> Run:
    return Run(SMALL, 1, 60.0, run(SMALL))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("expert", EXPERTS)
def test_the_jacobian_is_the_derivative(gate: str, expert: str) -> None:
    random = np.random.default_rng(0)
    parameters, x = random.normal(size=(2, 3, 4)), random.uniform(-3, 3, (2, 50))
    value, jacobian = linearise(parameters, x, gate, expert)
    assert np.array_equal(value, predict(parameters, x, gate, expert))
    for place in range(12):
        step = np.zeros(12)
        step[place] = 1e-6
        moved = [predict(parameters + sign * step.reshape(3, 4), x, gate, expert) for sign in (1, -1)]
        np.testing.assert_allclose(jacobian[:, place], (moved[0] - moved[1]) / 2e-6, atol=2e-5)


@pytest.mark.parametrize("gate", GATES)
def test_least_squares_finds_the_truth_without_noise(gate: str) -> None:
    random = np.random.default_rng(1)
    truth = np.repeat(TRUTH[None], 4, axis=0)
    x = random.uniform(-3, 3, (4, 400))
    y = predict(truth, x, gate, "relu")
    found, loss = fit(truth + random.normal(0, 0.05, truth.shape), x, y, gate, "relu", steps=300)
    assert np.median(loss) < 1e-12
    assert np.array_equal(loss, cost(found, x, y, gate, "relu"))
    assert np.median(worst_expert(found, TRUTH)) < 1e-4


def test_the_voronoi_loss_by_hand() -> None:
    """Sigmoid gates of logit 0 weigh 1/2. One expert 0.2 off alone in its cell, two 0.1 and 0.3 off in another."""
    truth = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0]])
    fitted = np.array([[[0, 0, 1.2, 0], [0, 0, -1.1, 0], [0, 0, -1, 0.3]]], dtype=np.float64)
    assert voronoi_loss(fitted, truth, "sigmoid") == pytest.approx(0.5 * 0.2 + 0.5 * (0.1**2 + 0.3**2))
    assert voronoi_loss(fitted, truth, "softmax") == pytest.approx((0.2 + 0.1**2 + 0.3**2) / 3)
    assert worst_expert(fitted, truth) == pytest.approx(0.2)
    assert idle_expert(fitted, truth) == pytest.approx(0.3)
    assert voronoi_loss(truth[None], truth, "softmax") == pytest.approx(0)
    alone = fitted[:, 1:]
    assert voronoi_loss(alone, truth, "sigmoid") == pytest.approx(0.5 * (0.1**2 + 0.3**2) + 2.0, abs=0.1)


def test_a_known_slope_is_found() -> None:
    random = np.random.default_rng(2)
    sizes = (100, 1000, 10_000)
    values = np.array(sizes)[:, None] ** -0.5 * random.lognormal(0, 0.2, (3, 40))
    middle, low, high = slope(sizes, values)
    assert low < -0.5 < high
    assert low <= middle <= high
    assert high - low < 0.1


def test_every_fit_is_a_least_squares_estimate_and_the_control_is_regular(done: Run) -> None:
    for one in done.series:
        assert one.loss.shape == one.worst.shape == (3, 8)
        assert np.isfinite(one.loss).all()
        assert one.below_truth > 0.9
        if one.fitted == 2:
            assert -1.2 < slope(one.sizes, one.worst)[0] < -0.2


def test_both_gates_read_the_same_inputs(done: Run) -> None:
    again = run(SMALL.__class__(sizes=(300,), replicates=2, truths=("A",), steps=20))
    assert np.array_equal(
        again[0].loss, run(SMALL.__class__(sizes=(300,), replicates=2, truths=("A",), steps=20))[0].loss
    )
    assert len(done.series) == 8


def test_the_page_is_a_function_of_its_numbers(done: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done.save(page.with_suffix(".json"))
    read = Run.load(page.with_suffix(".json"))
    write(read, page)
    assert page.read_text(encoding="utf-8") == text(read)
    assert "## What it does not show" in text(read)
    assert (tmp_path / "sample-efficiency.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_published_page_is_up_to_date() -> None:
    page = ROOT / "docs/sample-efficiency.md"
    read = Run.load(page.with_suffix(".json"))
    hint = "run python -m benchmarks.efficiency --page-only"
    assert page.read_text(encoding="utf-8") == text(read), hint
    assert page.with_name("sample-efficiency.svg").read_text(encoding="utf-8") == figure(read), hint
