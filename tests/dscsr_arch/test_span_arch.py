import io
import warnings

import pytest
import torch

from dscsr_arch import SPAN

EXACT = {"rtol": 0, "atol": 1e-10}  # float64; values of the output reach a few hundred before training


@pytest.mark.parametrize("norm", [True, False])
def test_spandrel_makes_the_same_image_from_a_training_checkpoint(spandrel, norm):
    net = SPAN(feature_channels=28, norm=norm).eval()
    file = io.BytesIO()
    torch.save({"params": net.state_dict()}, file)
    file.seek(0)
    loaded = spandrel.ModelLoader().load_from_state_dict(torch.load(file, weights_only=True))
    assert (loaded.architecture.id, loaded.scale) == ("SPAN", 4)
    x = torch.rand(1, 3, 17, 11)
    with torch.no_grad():
        expected = net(x)
        # float32: the two sum the same products in another order; outputs are of the order of 10
        torch.testing.assert_close(loaded.model.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_norm_false_skips_mean_and_range_and_loads_files_without_the_marker():
    with_norm = SPAN(feature_channels=4).double()
    without = SPAN(feature_channels=4, norm=False).double()
    with pytest.warns(UserWarning, match="no `no_norm` marker, so they were probably trained with mean and range"):
        without.load_state_dict(with_norm.state_dict())
    x = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(without((x - with_norm.mean) * 255), with_norm(x), **EXACT)
    assert "no_norm" in without.state_dict()
    with pytest.raises(RuntimeError, match="no_norm"):
        SPAN(feature_channels=4).double().load_state_dict(without.state_dict())


def test_saving_and_loading_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = SPAN(feature_channels=4)
        SPAN(feature_channels=4).load_state_dict(net.state_dict())
        SPAN(feature_channels=4).fuse().load_state_dict(net.state_dict())
