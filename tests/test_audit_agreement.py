"""Agreement statistics and estimates, against published tables and independent references."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlaif.audit import agreement, estimates

Rows = list[tuple[str, str]]


def spread(cells: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    """Two raters' ratings from a table of counts."""
    rows = [pair for pair, n in cells.items() for _ in range(n)]
    return [a for a, _ in rows], [b for _, b in rows]


PARADOX = {("yes", "yes"): 130, ("no", "yes"): 56, ("yes", "no"): 9, ("no", "no"): 5}
"""Table 1 of PMC7222679: kappa .022 and AC1 .533, although 67.5% agree."""

MIXED: dict[tuple[str, str], int] = {
    ("a", "a"): 22, ("a", "b"): 3, ("a", "tie"): 5, ("b", "a"): 4, ("b", "b"): 31,
    ("b", "tie"): 2, ("tie", "a"): 1, ("tie", "b"): 6, ("tie", "tie"): 9,
}  # fmt: skip

WIKIPEDIA = [  # three raters with gaps (the example in Wikipedia's article: nominal alpha .691)
    "* * * * * 3 4 1 2 1 1 3 3 * 3",
    "1 * 2 1 3 3 4 3 * * * * * * *",
    "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
]


# --- published tables -----------------------------------------------------------------------------


def test_the_kappa_paradox() -> None:
    first, second = spread(PARADOX)
    table = agreement.table([*zip(first, second, strict=True)])
    assert agreement.kappa(first, second).value == pytest.approx(0.02196810111345195, abs=1e-9)
    assert agreement.ac1(table).value == pytest.approx(0.5325842697, abs=1e-9)
    assert agreement.alpha(table).value == pytest.approx(-0.064, abs=1e-9)
    assert agreement.observed(table).value == pytest.approx(0.675)


def test_alpha_with_gaps() -> None:
    rows = [
        [None if x == "*" else x for x in unit]
        for unit in zip(*(row.split() for row in WIKIPEDIA), strict=True)
    ]
    assert agreement.alpha(agreement.table(rows)).value == pytest.approx(
        0.6913580246913581, abs=1e-9
    )


def test_undefined_says_why() -> None:
    same = ["a"] * 30
    assert agreement.kappa(same, same).value is None
    assert "one and the same" in agreement.kappa(same, same).why
    assert agreement.alpha(agreement.table([("a", "a")] * 9)).value is None
    assert agreement.alpha(agreement.table([("a", None)])).why == "nothing was rated twice"
    assert agreement.kappa([], []).why
    assert agreement.ac1(agreement.table([])).why
    few = agreement.kappa(["a", "b", "a"], ["a", "b", "b"])
    assert few.low is None
    assert "fewer than 10" in few.why
    assert estimates.rate(0, 0, "nobody").why == "nobody"
    assert estimates.weighted({}, {"a": 5}).why == "nothing was judged"
    assert estimates.ppi([1], [1], 0.5, 10).value is None


def test_everybody_agreeing_is_no_certainty() -> None:
    sides = ["a", "b"] * 20
    found = agreement.kappa(sides, sides)
    assert found.value == 1
    assert found.low is not None
    assert 0.6 < found.low < 0.95


# --- independent references -----------------------------------------------------------------------

REFERENCE = """
import json, sys
import krippendorff, numpy as np
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
out = {}
for name, (first, second) in json.load(open(sys.argv[1]))["pairs"].items():
    names = sorted({*first, *second})
    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second):
        table[names.index(a), names.index(b)] += 1
    ratings = [[names.index(a) for a in first], [names.index(b) for b in second]]
    out[name] = [float(cohens_kappa(table).kappa),
                 float(krippendorff.alpha(ratings, level_of_measurement="nominal"))]
p = json.load(open(sys.argv[1]))["p"]
out["bh"] = multipletests(p, method="fdr_bh")[1].tolist()
out["by"] = multipletests(p, method="fdr_by")[1].tolist()
print(json.dumps(out))
"""


@pytest.mark.slow
def test_statsmodels_and_krippendorff_say_the_same(tmp_path: Path) -> None:
    """In a virtual environment of their own: krippendorff's licence keeps it out of ours."""
    import json

    uv = Path(sys.executable).with_name("uv")
    made = subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"],
                          check=False, capture_output=True, text=True)  # fmt: skip
    python = tmp_path / "venv" / "bin" / "python"
    wanted = ["statsmodels>=0.14", "krippendorff>=0.8", "numpy", "scipy", "pandas"]
    got = subprocess.run([uv, "pip", "install", "-q", "--python", python, *wanted],
                         check=False, capture_output=True, text=True)  # fmt: skip
    if made.returncode or got.returncode:
        pytest.skip(f"the references cannot be installed here: {got.stderr[-200:]}")
    rng = np.random.default_rng(0)
    pairs = {"paradox": spread(PARADOX), "mixed": spread(MIXED)}
    for k in range(20):
        drawn = rng.choice(list("abc"), size=(2, 40), p=rng.dirichlet([1, 1, 1]))
        pairs[str(k)] = ([str(x) for x in drawn[0]], [str(x) for x in drawn[1]])
    p = [float(x) for x in rng.random(12) ** 3]
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({"pairs": pairs, "p": p}))
    done = subprocess.run([python, "-c", REFERENCE, asked], capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    said = json.loads(done.stdout)
    for name, (first, second) in pairs.items():
        kappa, alpha = said[name]
        ours = agreement.kappa(first, second).value
        if ours is not None:
            assert ours == pytest.approx(kappa, abs=1e-6)
        table = agreement.table([*zip(first, second, strict=True)])
        found = agreement.alpha(table).value
        if found is not None:
            assert found == pytest.approx(alpha, abs=1e-6)
    assert estimates.benjamini_hochberg(p) == pytest.approx(said["bh"], abs=1e-9)
    assert estimates.benjamini_hochberg(p, dependent=True) == pytest.approx(said["by"], abs=1e-9)


def test_numbers_of_three_references() -> None:
    """What statsmodels 0.15.0, krippendorff 0.9.0 and irrCAC 0.4.4 say of it."""
    first, second = spread(MIXED)
    table = agreement.table([*zip(first, second, strict=True)])
    assert agreement.kappa(first, second).value == pytest.approx(0.5986645176145521, abs=1e-9)
    assert agreement.alpha(table).value == pytest.approx(0.6006684337904806, abs=1e-9)
    assert agreement.ac1(table).value == pytest.approx(0.630700778643, abs=1e-9)


# --- coverage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [0.97, 0.9, 0.7])
@pytest.mark.parametrize("n", [30, 100])
def test_coverage_of_the_coefficients(right: float, n: int) -> None:
    rng, names, times = np.random.default_rng(n), ["a", "b", "tie"], 150
    base = np.array([0.45, 0.45, 0.1])
    joint = np.diag(base * right) + (base * (1 - right) / 2)[:, None] * (1 - np.eye(3))
    rows, columns = joint.sum(1), joint.sum(0)
    seen, pi = joint.trace(), (rows + columns) / 2
    truth = (
        (seen - rows @ columns) / (1 - rows @ columns),
        (seen - pi @ pi) / (1 - pi @ pi),
        (seen - pi @ (1 - pi) / 2) / (1 - pi @ (1 - pi) / 2),
        seen,
    )
    covered = np.zeros(4)
    for _ in range(times):
        cells = rng.choice(9, size=n, p=joint.ravel())
        first, second = [names[c // 3] for c in cells], [names[c % 3] for c in cells]
        table = agreement.table([*zip(first, second, strict=True)], names)
        figures = (agreement.kappa(first, second), agreement.alpha(table), agreement.ac1(table, 3),
                   agreement.observed(table))  # fmt: skip
        for k, (found, true) in enumerate(zip(figures, truth, strict=True)):
            assert found.low is not None
            assert found.high is not None
            covered[k] += found.low - 1e-9 <= true <= found.high + 1e-9
    assert (covered / times).min() >= 0.94


@pytest.mark.parametrize("rates", [[0.9] * 4, [0.97, 0.9, 0.8, 0.6], [0.99] * 4])
@pytest.mark.parametrize("sizes", [[1000] * 4, [3000, 600, 300, 100]])
def test_coverage_of_the_weighted_mean(rates: list[float], sizes: list[int]) -> None:
    """A uniform prefix of 100 with every stratum topped up to 30: n varies with the stratum."""
    rng, times, hits, naive = np.random.default_rng(7), 400, 0, 0
    names = {str(k): size for k, size in enumerate(sizes)}
    for _ in range(times):
        frame = [(rng.random(n) < p).astype(float) for n, p in zip(sizes, rates, strict=True)]
        truth = sum(xs.sum() for xs in frame) / sum(sizes)
        labels = np.repeat(np.arange(len(sizes)), sizes)
        drawn = np.bincount(rng.permutation(labels)[:100], minlength=len(sizes))
        some = {str(k): xs[: max(drawn[k], 30)].tolist() for k, xs in enumerate(frame)}
        found = estimates.weighted(some, names)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
        flat = [x for xs in some.values() for x in xs]
        low, high = estimates.wilson(sum(flat) / len(flat), len(flat))
        naive += low <= truth <= high
    assert hits / times >= 0.94
    if rates[0] != rates[-1] and sizes[0] != sizes[-1]:
        assert naive / times < 0.9  # without the weights it would not


@pytest.mark.parametrize(("n", "accuracy", "base"), [(40, 0.9, 0.3), (100, 0.95, 0.1)])
def test_prediction_powered_mean(n: int, accuracy: float, base: float) -> None:
    rng, population, times, hits = np.random.default_rng(8), 2000, 400, 0
    shorter = 0.0
    for _ in range(times):
        y = (rng.random(population) < base).astype(float)
        f = np.where(rng.random(population) < accuracy, y, 1 - y)
        some = rng.choice(population, n, replace=False)
        found = estimates.ppi(y[some].tolist(), f[some].tolist(), float(f.mean()), population)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= y.mean() <= found.high
        low, high = estimates.wilson(float(y[some].mean()), n)
        shorter += (high - low) / (found.high - found.low) / times
    assert hits / times >= 0.94
    assert shorter > 1


# --- the rest -------------------------------------------------------------------------------------


def test_weighted_mean_by_hand() -> None:
    """Strata of 900 and 100 with means 1/2 and 1: 0.9 / 2 + 0.1."""
    found = estimates.weighted({"a": [1, 0] * 10, "b": [1] * 20}, {"a": 900, "b": 100})
    assert found.value == pytest.approx(0.55)
    whole = estimates.weighted({"a": [1, 0, 1]}, {"a": 3})
    assert (whole.low, whole.high) == (whole.value, whole.value)
    assert estimates.weighted({"a": [1, 0], "b": [1]}, {"a": 50, "b": 50}).value is not None


def test_fisher_by_hand() -> None:
    """3 of 4 against 1 of 4: 34/70 two-sided, 17/70 one-sided (Fisher's tea)."""
    assert estimates.fisher((3, 1), (1, 3)) == pytest.approx(34 / 70)
    assert estimates.fisher((3, 1), (1, 3), greater=True) == pytest.approx(17 / 70)


def test_shrinkage() -> None:
    same = estimates.shrunk([27, 27, 27], [30, 30, 30])
    assert same == pytest.approx([0.9, 0.9, 0.9])
    apart = estimates.shrunk([29, 5, 28, 0], [30, 30, 30, 0])
    assert apart[3] is None
    assert 5 / 30 < (apart[1] or 0) < 0.35
    one = estimates.shrunk([1, 80], [1, 100])
    assert one[0] == pytest.approx(0.8, abs=0.05)


def test_adjusted_p_by_hand() -> None:
    assert estimates.benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert estimates.benjamini_hochberg([0.01], dependent=True) == [0.01]


def test_alternative_annotator() -> None:
    rng = np.random.default_rng(9)
    truth = [str(x) for x in rng.choice(["a", "b"], 200)]

    def rater(right: float) -> list[str]:
        other = {"a": "b", "b": "a"}
        return [y if rng.random() < right else other[y] for y in truth]

    people = [rater(0.85) for _ in range(3)]
    ratings = [dict(enumerate(row)) for row in zip(*people, strict=True)]
    good = estimates.alternative_annotator(rater(0.9), ratings)
    assert good.passed
    bad = estimates.alternative_annotator(rater(0.5), ratings)
    assert bad.passed is False
    two = estimates.alternative_annotator(truth, [{0: "a", 1: "b"}] * 200)
    assert two.winning is None
    assert "3 reviewers" in two.why
    few = estimates.alternative_annotator(truth[:20], ratings[:20])
    assert "50 items" in few.why
    assert math.isclose(estimates.alternative_annotator(truth, ratings).winning or 0, 1.0)
