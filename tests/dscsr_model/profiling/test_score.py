"""The score of NTIRE: fixed points, monotony, limits."""

import math

import pytest
from made_up_profiles import measured, profile_of

from dscsr_model.profiling.score import Given, score, scores


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


def test_of_which_times_a_score_is_made():
    result = profile_of(net=measured(8.0), other=measured(8.0))
    ours = scores(result, "net")
    assert ours[2026].baseline_source == "measured"
    assert ours[2026].comparable
    assert ours[2026].score == pytest.approx(math.e**2, rel=1e-3)  # the exact counts differ from the published ones
    assert (ours[2025].baseline_ms, ours[2025].baseline_source) == (16.69, "published")
    assert not ours[2025].comparable
    here = scores(result, "net", Given(baselines={2025: 20.0, 2026: 4.0}))
    assert [(each.baseline_ms, each.baseline_source) for each in here.values()] == [(20.0, "given"), (4.0, "given")]
    assert here[2025].comparable
    there = scores(result, "net", Given(runtimes={"net": 7.74}))
    assert there[2026].low == there[2026].score == there[2026].high
    assert [each.baseline_source for each in there.values()] == ["published", "published"]
    assert there[2026].comparable
    assert scores(result, "other", Given(runtimes={"net": 7.74})) == scores(result, "other")
    assert scores(profile_of(net=measured(8.0), baseline=None), "net")[2026].baseline_source == "published"
