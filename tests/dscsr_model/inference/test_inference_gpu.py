"""Networks that run on a GPU: engines, tiles after memory has ended, costs, and a kit's check."""

import numpy as np
import pytest
import torch

from dscsr_arch import SPAN
from dscsr_model.export.ntire import kit as kits
from dscsr_model.inference.engines import torch_engine
from dscsr_model.inference.tiles import Upscaler
from dscsr_model.profiling.profile import Settings, profile


@pytest.fixture
def network():
    return SPAN(feature_channels=8, upscale=2).eval()


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1e-5), ("bf16", 0.03), ("fp16", 0.01)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_engine_gives_what_the_cpu_gives(network, device, precision, least, channels_last):
    x = torch.rand(1, 3, 20, 31)
    with torch.no_grad():
        expected = network.double()(x.double()).float()
    engine = torch_engine(network.float(), device=str(device), precision=precision, channels_last=channels_last)
    result = engine(x)
    assert result.device.type == device.type
    assert (result.cpu() - expected).abs().max() <= least * expected.abs().max()


@pytest.mark.gpu
def test_a_compiled_engine_takes_images_of_all_sizes(network, gpu):
    plain, compiled = (torch_engine(network, device="cuda", compile=each) for each in (False, True))
    for size in ((20, 31), (17, 18), (40, 8)):
        x = torch.rand(1, 3, *size, device=gpu)
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_after_memory_has_ended_tiles_are_smaller(gpu):
    engine = torch_engine(SPAN(feature_channels=48, upscale=2).eval(), device="cuda")
    pixels = np.random.default_rng(0).integers(0, 256, (768, 768, 3), dtype=np.uint8)
    expected = Upscaler(engine, 0)(pixels)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    room = torch.cuda.memory_reserved() + engine.receptive_field.bytes_per_pixel * 768 * 768 / 3
    torch.cuda.set_per_process_memory_fraction(room / total)
    upscaler = Upscaler(engine, 0)
    try:
        result = upscaler(pixels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert upscaler._limit < 768
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_costs_are_measured_where_it_runs(network, device):
    settings = Settings(32, 48, ("eager", "channels_last"), device=str(device), seconds=0.01, baseline=False)
    runs = profile({"small": network}, settings).networks["small"].runs
    for run in runs.values():
        assert run.fault is None
        assert run.latency.median_ms > 0
        assert run.memory > 8 * 32 * 48 * 4  # a feature map


@pytest.mark.gpu
def test_a_kit_is_timed_on_the_gpu(tmp_path, gpu):
    made = kits.make(
        SPAN(feature_channels=8).eval(), kits.Kit(7, "Fast", tmp_path / "kit", seconds=0.3), lambda items, *_: items
    )
    assert made.figures.machine == torch.cuda.get_device_name()
    assert made.figures.runtime_ms > 0
