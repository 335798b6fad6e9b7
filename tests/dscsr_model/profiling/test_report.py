"""Tables and JSON of known figures, and what is said of the machine."""

import json

from made_up_profiles import MACHINE, measured, profile_of, run

from dscsr_model.profiling.profile import BASELINE, Run
from dscsr_model.profiling.report import WIDTH, as_dict, table
from dscsr_model.profiling.score import BASELINES


def test_table_of_known_figures():
    bad = measured(9e3, bf16=Run(fault="too slow"))
    text = table(profile_of(span_ch28=measured(8.0, psnr=29.853, bf16=run(4.0)), bad=bad), {"bad": 20.0})
    assert all(len(line) <= WIDTH for line in text.splitlines())
    lines = [line.split() for line in text.splitlines()]
    assert next(line for line in lines if line[:1] == ["span_ch28"])[1:] == (
        ["0.151", "M", "9.83", "G", "41.68", "M", "22", "29.85", "dB", "31.85", "dB", "2.76", "±0.28*", "7.39", "±3.96"]
    )
    assert next(line for line in lines if line[:1] == ["bad"])[-4:] == ["20.00", "dB", ">1e4*", ">1e4"]
    assert next(line for line in lines if line[:1] == ["bf16"]) == (
        ["bf16", "4.000", "ms", "3.600", "to", "4.800", "7", "3.0", "MiB", "2.00×"]
    )
    assert next(line for line in lines if line[:2] == ["bf16", "-"])
    assert any(line[:1] == [BASELINE.split()[0]] for line in lines)
    assert "bad, bf16: too slow" in text
    assert "* compares times of two machines" in text
    assert "Some CPU, 2 threads; torch 2.13.0" in text
    assert "per image" not in text, "columns without figures are left out"


def test_json_says_where_each_score_comes_from_and_has_no_infinity():
    data = as_dict(profile_of(net=measured(1e6), none=measured(bf16=Run(fault="too slow"))), {"net": 30.0})
    json.dumps(data, allow_nan=False)
    network, other = data["networks"]
    assert network["scores"]["2026"] == {
        "score": None, "low": None, "high": None, "runtime_ms": 1e6, "runtime_source": "measured", "baseline_ms": 8.0,
        "baseline_source": "measured", "comparable": True,
    }  # fmt: skip
    assert (network["psnr"], network["psnr_source"]) == (30.0, "given")
    assert (other["variants"]["bf16"]["median_ms"], other["variants"]["bf16"]["fault"]) == (None, "too slow")
    assert (data["machine"], data["size"], data["score_variant"]) == (MACHINE, [256, 256], "eager")
    assert BASELINES[2026].name == data["baseline_2026"]["network"]
