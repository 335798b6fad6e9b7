import pytest

from dscsr_arch import SPAN
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_model.export.compare import HALF_TOLERANCE, TOLERANCE, Difference, difference


@pytest.fixture
def network():
    """Untrained, its outputs would be of the order of 10, and differences a part of that."""
    network = deployable(SPAN(feature_channels=4, upscale=2))
    network.upsampler[0].weight.mul_(0.01)
    return network


def test_the_largest_difference_is_given(network):
    assert difference(network, network) == (0, 0)
    shifted = difference(network, lambda x: network(x) + TOLERANCE / 2)
    assert shifted == pytest.approx((TOLERANCE / 2, (TOLERANCE / 2) ** 2), rel=0.02)


def test_what_an_error_costs():
    """Images of 30 dB have a mean square error of 1e-3; as much again halves the signal to noise ratio."""
    assert Difference(0.1, 1e-3).cost(30) == pytest.approx(3.0103, abs=1e-4)
    assert Difference(0.1, 0).cost(30) == 0


@pytest.mark.parametrize(
    ("candidate", "half", "message"),
    [
        (lambda net: lambda x: net(x) + 2 * TOLERANCE, False, r"up to 1\.0e-04, but got a largest difference of 2"),
        (lambda net: lambda x: net(x) + 2 * HALF_TOLERANCE, True, r"up to 7\.8e-03, but .* Export without --fp16"),
        (lambda net: lambda x: net(x)[..., 1:], False, r"read by it, to make \(1, 3, 48, 80\) of an image 1 × 3 × 24"),
        (lambda net: lambda x: net(x) * float("nan"), False, "to give finite numbers .* 11520 of 11520"),
        (lambda net: lambda x: net(x) / 0, True, "too large for float16: export without --fp16"),
    ],
)
def test_what_does_something_else_is_refused(network, candidate, half, message):
    with pytest.raises(DscsrError, match=message):
        difference(network, candidate(network), half=half)


FAULTS = {
    "a mean that is off in the third digit": lambda net: net.mean.add_(0.002),
    "one weight of 3,000": lambda net: net.conv_cat.weight[0, 0].add_(0.05),
    "a border that is not zero": lambda net: setattr(net.conv_1.eval_conv, "padding_mode", "replicate"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_small_faults_are_found(network, fault):
    broken = deployable(network)
    FAULTS[fault](broken)
    with pytest.raises(DscsrError, match="largest difference"):
        difference(network, broken)
