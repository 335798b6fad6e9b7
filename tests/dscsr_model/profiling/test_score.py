"""The score of NTIRE: fixed points, monotony, limits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscsr_arch.errors import DscsrError
from dscsr_model.profiling.score import BASELINES, score

parts = st.floats(0.05, 5)


@pytest.mark.parametrize("year", BASELINES)
def test_a_baseline_has_e_squared(year):
    base = BASELINES[year]
    assert score(base.runtime_ms, base.flops, base.parameters, year) == pytest.approx(math.e**2, rel=1e-14)


def test_by_hand():
    """Half of each of SPAN-28's figures, and twice its time."""
    assert score(3.87, 4.915e9, 75_500) == pytest.approx(math.e, rel=1e-12)
    expected = 0.7 * math.exp(2 * 15.48 / 16.69) + 0.15 * math.exp(2 * 8.54 / 16.7) + 0.15 * math.exp(2 * 131 / 276)
    assert score(15.48, 8.54e9, 131_000, 2025) == pytest.approx(expected, rel=1e-12)


OFFICIAL = [
    ("SPANV2", 5.24, 1.59, 0.139, 3.87),
    ("PDS", 6.70, 9.25, 0.142, 5.83),
    ("PKDSR", 6.80, 9.40, 0.144, 5.99),
    ("DISP", 6.51, 10.69, 0.164, 6.06),
    ("DSCF_Fused", 7.88, 8.22, 0.126, 7.19),
    ("SPAN-28, the baseline", 7.74, 9.83, 0.151, 7.39),
    ("ERRN2", 9.37, 16.06, 0.246, 14.23),
    ("RFDN_SPAN", 16.66, 22.60, 0.346, 78.96),
    ("AMCANet", 18.26, 5.24, 0.086, 90.19),
    ("HFENet", 33.64, 8.91, 0.144, 4767.76),
]
"""The networks of 2026 in the order of the main track: milliseconds, G operations, M parameters as published, score."""


def test_the_official_table_of_2026():
    scores = [score(ms, flops * 1e9, parameters * 1e6) for _, ms, flops, parameters, _ in OFFICIAL]
    assert scores == pytest.approx([row[-1] for row in OFFICIAL], abs=0.005)
    assert scores == sorted(scores)


@given(parts, parts, parts, st.sampled_from(list(BASELINES)))
def test_less_of_anything_is_better(time, flops, parameters, year):
    base = BASELINES[year]
    figures = (time * base.runtime_ms, flops * base.flops, parameters * base.parameters)
    for index in range(3):
        less = [figure * (0.9 if at == index else 1) for at, figure in enumerate(figures)]
        assert score(*less, year) < score(*figures, year)


@given(parts, parts)
def test_only_the_ratio_of_times_counts(time, factor):
    expected = score(time, 8e9, 1e5, baseline_ms=5)
    assert score(time * factor, 8e9, 1e5, baseline_ms=5 * factor) == pytest.approx(expected, rel=1e-9)


def test_hopelessly_slow_is_infinitely_bad():
    assert score(1e9, 8e9, 1e5) == math.inf


def test_an_unknown_year_is_refused():
    with pytest.raises(DscsrError, match=r"Expected a year of 2025, 2026, but got 2024"):
        score(1, 1, 1, 2024)


@pytest.mark.parametrize("name", ["runtime_ms", "flops", "parameters", "baseline_ms"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_figures_are_positive_numbers(name, value):
    figures = {"runtime_ms": 1.0, "flops": 1e9, "parameters": 1e5, "baseline_ms": 1.0, name: value}
    with pytest.raises(DscsrError, match=f"Expected `{name}` to be a positive number, but got"):
        score(**figures)
