"""The gate: its table of error rates, its edges, its confidence sequence."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from rlaif.audit import agreement
from rlaif.audit.gate import QUICK, Alpha, Gate, judged, simulate
from rlaif.cli import main

AUDITS = 2000


def run_of(xs: list[float], tau: float, population: int) -> Alpha:
    test = Alpha(tau, population)
    for x in xs:
        test.step(x)
    return test


# --- worked by hand -------------------------------------------------------------------------------


def test_first_steps_by_hand() -> None:
    """N = 10, tau = 0.5: m_1 = 0.5, eta_1 = 0.6, so a 1 multiplies by 1.2; m_2 = 4 / 9 and
    eta_2 = (60 + 1) / 101, so a 0 multiplies by (40 / 101) / (5 / 9)."""
    assert math.exp(run_of([1], 0.5, 10).log[0]) == pytest.approx(1.2)
    expected = 1.2 * (40 / 101) / (5 / 9)
    assert math.exp(run_of([1, 0], 0.5, 10).log[0]) == pytest.approx(expected)


def test_a_half_is_half_way() -> None:
    assert math.exp(run_of([0.5], 0.5, 10).log[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.75])
def test_mean_of_t_is_at_most_one_over_all_orders(tau: float) -> None:
    """A supermartingale: over all orders of a frame whose mean is tau, T averages at most 1."""
    n = 8
    ones = math.floor(tau * n)
    rest = tau * n - ones
    frame = [1.0] * ones + [rest] + [0.0] * (n - ones - 1)
    orders = set(itertools.permutations(frame))
    for length in range(1, n):
        values = [math.exp(run_of(list(order[:length]), tau, n).log[0]) for order in orders]
        weights = 1 / len(orders)
        assert sum(values) * weights <= 1 + 1e-9


def test_only_what_is_above_the_null_proves_it_wrong() -> None:
    """tau = 0.5 of 4 items: after 1 1 the mean of the rest is 0 under the null. Zeros are what it
    says; one more 1 refutes it."""
    at_zero = run_of([1, 1], 0.5, 4)
    assert math.isfinite(at_zero.peak[0])
    full = run_of([1, 1, 0, 0], 0.5, 4)
    assert math.isfinite(full.peak[0])
    assert full.peak[0] < math.log(20)
    assert run_of([1, 1, 0, 1], 0.5, 4).peak[0] == math.inf


def test_a_null_that_cannot_be_refuted_any_more() -> None:
    assert run_of([0, 0, 0], 0.5, 4).log[0] == -math.inf


def test_more_items_than_there_are() -> None:
    with pytest.raises(ValueError, match="2 items only"):
        run_of([1, 1, 1], 0.5, 2)


# --- error rates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("population", [40, 400, 2000])
@pytest.mark.parametrize("agreement", [0.75, 0.72, 0.65])
def test_false_pass_at_most_alpha_with_peeking(population: int, agreement: float) -> None:
    found = simulate(AUDITS, agreement, 0.75, seed=1, population=population)
    assert found.pass_rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / AUDITS)


@pytest.mark.parametrize("agreement", [0.75, 0.8, 0.9])
def test_false_fail_at_most_alpha(agreement: float) -> None:
    found = simulate(AUDITS, agreement, 0.75, seed=2)
    assert found.fail_rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / AUDITS)


def test_power() -> None:
    """The table of the design: median 44 items at 0.90, 82 at 0.85; 56% pass at 0.80."""
    nine = simulate(AUDITS, 0.9, 0.75, seed=3)
    assert nine.pass_rate > 0.995
    assert nine.median_items is not None
    assert nine.median_items <= 50
    eight_and_a_half = simulate(AUDITS, 0.85, 0.75, seed=3)
    assert eight_and_a_half.pass_rate > 0.98
    assert eight_and_a_half.median_items is not None
    assert eight_and_a_half.median_items <= 90
    assert simulate(AUDITS, 0.8, 0.75, seed=3).pass_rate == pytest.approx(0.56, abs=0.05)
    worse = simulate(AUDITS, 0.65, 0.75, seed=3)
    assert worse.fail_rate > 0.96
    assert worse.median_items is None or worse.pass_rate < 0.01


@pytest.mark.parametrize("truth", [0.5, 0.7, 0.85, 0.95])
def test_confidence_sequence_covers_at_every_stop(truth: float) -> None:
    """The truth is outside as soon as one of two tests of it passes 2 / alpha, at any item."""
    rng, audits, population = np.random.default_rng(4), 1000, 1000
    taus = np.full(audits, truth)
    above = Alpha(taus, population, 0.85, QUICK)
    below = Alpha(1 - taus, population, 0.15, QUICK)
    right = np.full(audits, truth * population)
    for n in range(400):
        x = (rng.random(audits) * (population - n) < right).astype(float)
        right -= x
        above.step(x)
        below.step(1 - x)
    outside = np.maximum(above.peak, below.peak) >= math.log(2 / 0.05)
    assert outside.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / audits)


@pytest.mark.parametrize("truth", [0.72, 0.78, 0.9])
def test_other_figures_may_be_read_after_the_stop(truth: float) -> None:
    """Near the threshold an interval that does not allow for the stop misses too often."""
    rng, audits, population = np.random.default_rng(8), 600, 5000
    passing = Alpha(np.full(audits, 0.7), population)
    failing = Alpha(np.full(audits, 0.3), population)
    stop, hits = np.full(audits, 400), np.zeros(audits)
    for n in range(400):
        x = (rng.random(audits) < truth).astype(float)
        passing.step(x)
        failing.step(1 - x)
        on = stop == 400
        hits[on] += x[on]
        over = np.maximum(passing.peak, failing.peak) >= math.log(20)
        stop[on & over] = n + 1
    ends = [agreement.anytime(float(k), int(n)) for k, n in zip(hits, stop, strict=True)]
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.94
    if truth == 0.72:
        plain = [agreement.exact(float(k), int(n)) for k, n in zip(hits, stop, strict=True)]
        assert np.mean([low <= truth <= high for low, high in plain]) < 0.94


def test_the_interval_is_that_of_the_tests() -> None:
    rng = np.random.default_rng(6)
    for _ in range(5):
        xs = [float(x) for x in rng.random(60) < 0.8]
        low, high = judged([(x, x) for x in xs], 0.75, 0.05, 400, 500).interval()
        for tau, inside in ((low - 0.005, False), (low + 0.005, True), (high - 0.005, True)):
            above, below = Alpha(tau, 500, 0.85, QUICK), Alpha(1 - tau, 500, 0.15, QUICK)
            for x in xs:
                above.step(x)
                below.step(1 - x)
            peak = float(max(above.peak[0], below.peak[0]))
            assert (peak < math.log(40)) is inside


# --- the gate -------------------------------------------------------------------------------------


def test_what_cannot_be_judged_counts_against_both_sides() -> None:
    sure = judged([(1.0, 1.0)] * 30, 0.7, 0.05, 400, 2000)
    assert sure.state == "pass"
    unsure = judged([(0.0, 1.0)] * 100, 0.7, 0.05, 100, 2000)
    assert unsure.state == "inconclusive"
    assert unsure.passing < 1
    assert unsure.failing < 1
    assert unsure.interval() == (0.0, 1.0)


def test_skipping_the_disagreements_gains_nothing() -> None:
    """Disagreements skipped 15% of the time against 3%: dropping skips would pass too often."""
    rng, audits = np.random.default_rng(5), AUDITS
    worst, dropped = (Alpha(np.full(audits, 0.75), 10_000) for _ in range(2))
    for _ in range(400):
        agrees = rng.random(audits) < 0.75
        skipped = rng.random(audits) < np.where(agrees, 0.03, 0.15)
        worst.step(np.where(skipped, 0.0, agrees))
        dropped.step(np.where(skipped, np.where(rng.random(audits) < 0.774, 1.0, 0.0), agrees))
    limit = math.log(20)
    assert (worst.peak >= limit).mean() <= 0.03
    assert (dropped.peak >= limit).mean() > 0.08  # as if what is skipped were as the rest


def test_expected_items_left_shrink_and_end() -> None:
    gate = Gate(0.75, 0.05, 400, 2000)
    first = gate.left()
    assert first is not None
    assert 20 < first <= 400
    for _ in range(20):
        gate.add(1, 1)
    later = gate.left()
    assert later is not None
    assert later < first - 10
    while gate.state == "open":
        gate.add(1, 1)
    assert gate.left() is None
    assert gate.n < 40


def test_a_frame_smaller_than_the_cap_is_a_census() -> None:
    gate = judged([(1, 1), (0, 0), (1, 1), (1, 1)] * 5, 0.75, 0.05, 400, 20)
    assert gate.state == "inconclusive"  # exactly 0.75: neither above nor below
    low, high = gate.interval()
    assert low <= 0.75 <= high
    assert high - low < 0.01


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["audit", "simulate", "--audits", "500", "--agreement", "0.9"]
    assert main([*command, "--threshold", "0.75", "--seed", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"pass_rate", "fail_rate", "inconclusive_rate", "median_items"} <= set(found)
    assert found["pass_rate"] == 1
    assert main([*command, "--threshold", "0.75", "--seed", "1"]) == 0
    assert "median items to PASS" in capsys.readouterr().out
