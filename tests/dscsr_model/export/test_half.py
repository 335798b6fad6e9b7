import torch

from dscsr_arch import SPAN
from dscsr_arch.deployable import deployable
from dscsr_model.export.half import HalfInside


@torch.no_grad()
def test_half_inside_takes_and_gives_float32():
    network = deployable(SPAN(feature_channels=6, upscale=2))
    half = HalfInside(network)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    x = torch.rand(1, 3, 7, 5)
    assert half(x).dtype == torch.float32
    torch.testing.assert_close(half(x), network(x), rtol=0, atol=0.02 * float(network(x).abs().max()))
    assert not torch.equal(half(x), network(x))
