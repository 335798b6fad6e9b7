"""Names of what belongs to one width."""

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.training.widths import best_metric, label, metric_sections, validated_widths

METRICS = {"psnr": {"type": "p"}, "ssim": {"type": "s"}}


def test_names():
    assert [label(width) for width in (0.25, 1, 1.0)] == ["w0.25", "w1.0", "w1.0"]
    sections = metric_sections(METRICS, [0.5, 1.0])
    assert list(sections) == ["psnr_w0.5", "psnr_w1.0", "ssim_w0.5", "ssim_w1.0"]
    assert sections["ssim_w1.0"] is METRICS["ssim"]


@pytest.mark.parametrize(("name", "wanted"), [(None, "psnr_w0.5"), ("ssim", "ssim_w0.5"), ("psnr_w1.0", "psnr_w1.0")])
def test_the_smallest_width_decides_unless_another_is_named(name, wanted):
    assert best_metric(name, METRICS, [1.0, 0.5]) == wanted


def test_without_metrics_nothing_decides():
    assert best_metric(None, {}, [0.5]) is None


@pytest.mark.parametrize("name", ["lpips", "psnr_w0.25"])
def test_a_metric_that_is_not_there(name):
    with pytest.raises(DscsrError, match=rf"one of psnr, ssim, psnr_w0.5, .*but got '{name}'"):
        best_metric(name, METRICS, [0.5, 1.0])


def test_which_widths_are_validated():
    assert validated_widths(None, (0.5, 0.25), teacher=False) == (0.25, 0.5)
    assert validated_widths(None, (0.5, 0.25), teacher=True) == (0.25, 0.5, 1.0)
    assert validated_widths([1, 0.5, 1.0], (0.5, 0.25), teacher=False) == (0.5, 1.0)


@pytest.mark.parametrize("given", [[], 0.5, [0.75], "0.5"])
def test_widths_that_the_network_does_not_have(given):
    with pytest.raises(DscsrError, match=r"a list of widths among 0.25, 0.5, 1.0, but got"):
        validated_widths(given, (0.5, 0.25), teacher=True)
