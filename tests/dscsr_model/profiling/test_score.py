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
