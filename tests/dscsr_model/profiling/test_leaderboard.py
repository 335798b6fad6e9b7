"""The official results against the published scores; ranks and ways to the next place of known figures."""

import math

import pytest
from made_up_profiles import measured, profile_of

from dscsr_model.profiling.leaderboard import BASELINE_RESULT, RESULTS, needed, standings, table
from dscsr_model.profiling.profile import Run
from dscsr_model.profiling.report import WIDTH
from dscsr_model.profiling.score import Given

PUBLISHED = {
    "SPANV2": 3.87, "PDS": 5.83, "PKDSR": 5.99, "DISP": 6.06, "DSCF_Fused": 7.19, "SPAN-28": 7.39, "ERRN2": 14.23,
    "RFDN_SPAN": 78.96, "AMCANet": 90.19, "HFENet": 4767.76,
}  # fmt: skip


def test_the_official_scores():
    found = {result.name: result.score for result in (*RESULTS, BASELINE_RESULT)}
    assert found == pytest.approx(PUBLISHED, abs=0.005)
    assert list(RESULTS) == sorted(RESULTS, key=lambda result: result.score)


def by_hand(runtime_ms, flops, parameters):
    times = 0.8 * math.exp(2 * runtime_ms / 7.74)
    return times + 0.1 * math.exp(2 * flops / 9.83e9) + 0.1 * math.exp(2 * parameters / 151e3)


@pytest.mark.parametrize(("target", "possible"), [(6.5, "yyy"), (5.83, "yyn"), (5.7, "ynn"), (1.0, "nnn")])
def test_what_is_needed_put_back_makes_the_score(target, possible):
    figures = {"runtime_ms": 7.1, "flops": 11e9, "parameters": 142e3}
    for wanted, (key, value) in zip(possible, needed(figures, target).items(), strict=True):
        if wanted == "y":
            assert 0 <= value < figures[key]
            assert by_hand(**{**figures, key: value}) == pytest.approx(target, rel=1e-12)
        else:
            assert value is None
            assert by_hand(**{**figures, key: 0}) > target


def test_rows_ranks_and_ways():
    """PDS's figures, its time once as a part of the baseline's 8 ms, once given."""
    pds = {"parameters": 142_000, "flops": 9_250_000_000}
    result = profile_of(
        estimated=measured(6.70 / 7.74 * 8.0 + 0.05, **pds, psnr=26.0),
        told=measured(99.0, **pds, psnr=26.9),
        best=measured(1.0),
        worst=measured(1e6),
        none=measured(bf16=Run(fault="too slow")),
    )
    result.networks["none"].runs["eager"] = Run(fault="too slow")
    given = Given(runtimes={"told": 6.75})
    found = standings(result, given)
    assert {name: one.rank for name, one in found.items()} == {"estimated": 3, "told": 3, "best": 1, "worst": 10}
    assert found["estimated"].figures["runtime_ms"] == pytest.approx(6.70 + 0.05 * 7.74 / 8)
    assert found["told"].figures["runtime_ms"] == 6.75
    text = table(result, {"best": 30.0}, given)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    rows = {line.split()[1]: line.split()[2:] for line in text.splitlines() if line.startswith("> ")}
    assert rows["told"][:3] == ["3", "6.75", "ms"]
    assert rows["told"][-2:] == ["26.90", "5.89"]
    assert rows["estimated"][:3] == ["3", "~6.75", "ms"]
    assert "‡26.00" in rows["estimated"]
    assert rows["worst"][-1] == ">1e4"
    assert "not measured" in next(line for line in text.splitlines() if line.startswith("> worst"))
    words = " ".join(text.split())
    way = "runtime 6.75 → 6.70 ms (−0.7 %), or FLOPs 9.25 → 8.78 G (−5.0 %), or parameters 0.142 → 0.134 M (−5.0 %)."
    assert f"told: rank 3. To pass PDS (5.83): {way}" in words
    assert "estimated: rank 3 (2 to 6 by its ±). To pass PDS" in words
    assert "best: rank 1; nothing official is better. worst: rank 10." in words
    assert "33.63 ms (−100.0 %); FLOPs or parameters alone would not do, even at 0." in words
    assert "none has no rank: its time, or that of SPAN-28, could not be measured." in words
