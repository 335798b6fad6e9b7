"""MSSSIMLoss against the measure written out; wrong values in an option file: host/options/test_losses.py."""

import sys

import pytest
import torch
from small_models import build, options
from torch import Tensor
from torch.nn import functional as F

from dscsr_arch.errors import SizeError, UnavailableError
from dscsr_model.losses.msssim_loss import MSSSIMLoss

POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim(one: Tensor, other: Tensor, window: int) -> Tensor:
    """Of each image, in [0, 1]: the mean over its channels."""
    steps = torch.arange(window, dtype=torch.float64) - window // 2
    line = torch.exp(-steps.square() / (2 * 1.5**2))
    weight = (line[:, None] * line / line.sum() ** 2)[None, None]

    def mean(images: Tensor) -> Tensor:
        return F.conv2d(images.flatten(0, 1)[:, None], weight).view(*images.shape[:2], -1)

    product = torch.ones(one.shape[:2], dtype=torch.float64)
    for scale, power in enumerate(POWERS):
        middle, others = mean(one), mean(other)
        spread = mean(one * one) - middle**2 + mean(other * other) - others**2
        likeness = (2 * (mean(one * other) - middle * others) + 0.03**2) / (spread + 0.03**2)
        if scale == len(POWERS) - 1:
            likeness = likeness * (2 * middle * others + 0.01**2) / (middle**2 + others**2 + 0.01**2)
        product = product * likeness.mean(2).clamp_min(0) ** power
        one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    return product.mean(1)


def images(side: int) -> tuple[Tensor, Tensor]:
    """Something smooth, and the same with noise, beyond [0, 1] too; sides that can be halved four times."""
    small = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    smooth = F.interpolate(small, (side, side + 16), mode="bicubic")
    return smooth + 0.1 * torch.randn_like(smooth), smooth


@pytest.mark.parametrize(("window", "reduction"), [(5, "mean"), (3, "sum")])
def test_value_and_gradient_equal_the_measure_written_out(window, reduction):
    noisy, smooth = images(80)
    results = []

    def written_out(output: Tensor, target: Tensor) -> Tensor:
        return getattr(2 * (1 - ms_ssim(output, target, window)), reduction)()

    for each in (MSSSIMLoss(2.0, window, reduction), written_out):
        output = noisy.clone().requires_grad_()
        value = each(output, smooth)
        results += [torch.stack([value]), *torch.autograd.grad(value, output)]
    for one, other in (results[::2], results[1::2]):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()  # the library has its window in float32
    assert results[0] > 0.01


def test_a_scale_that_is_contrary_gives_no_gradient_and_no_nan():
    noisy, smooth = images(80)
    output = (noisy - 2 * smooth).requires_grad_()
    value = MSSSIMLoss(window=5)(output, smooth)
    value.backward()
    assert value == 1
    assert output.grad.abs().max() == 0


def test_half_precision_is_computed_in_float32():
    noisy, smooth = (each.bfloat16() for each in images(80))
    loss = MSSSIMLoss(window=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(noisy, smooth)
    assert value.dtype == torch.float32
    assert value == loss(noisy.float(), smooth.float())


def test_too_small_images_are_refused_at_the_first_pixel_that_is_missing():
    loss, image = MSSSIMLoss(), torch.rand(1, 3, 161, 161)
    assert loss.smallest == 161
    assert loss(image, image) == pytest.approx(0, abs=1e-6)
    with pytest.raises(SizeError, match=r"at least 161×161 pixels .* `window: 11`, but got 160×161"):
        loss(image[:, :, 1:], image[:, :, 1:])


def test_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    with pytest.raises(UnavailableError, match=r"pytorch-msssim for MSSSIMLoss, but .*pip install 'dscsr\[losses\]'"):
        MSSSIMLoss()


def test_an_option_file_names_it_and_the_log_has_it(tmp_path):
    model = build(options(tmp_path, **{"train:msssim_opt": {"type": "MSSSIMLoss", "loss_weight": 0.84, "window": 3}}))
    gt = torch.rand(1, 3, 40, 40)
    model.feed_data({"lq": torch.rand(1, 3, 20, 20), "gt": gt})
    model.optimize_parameters(1)
    assert model.get_current_log()["l_msssim"] == pytest.approx(0.84, abs=0.1)
