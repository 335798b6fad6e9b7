"""Steps on a pretended GPU: no tensor is made on the wrong device, and none is read but for the log."""

from unittest import mock

import pytest
import torch
from fake_gpu import fake_gpu
from small_models import build, everything, train
from torch._subclasses.fake_tensor import DataDependentOutputException

from dscsr_arch import SPAN
from dscsr_model.models import distillation_model

WAYS = {
    "bf16": {"train:precision": "bf16", "train:channels_last": True},
    "fp16": {
        "train:precision": "fp16",
        "train:grad_clip_norm": 1.0,
        "train:channels_last": True,
        "train:accumulate_steps": 2,
    },
}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(
    ("name", "way"),
    [("DistillationModel", "bf16"), ("DSCLoRAModel", "fp16"), ("CSDModel", "fp16"), ("CSDModel", "bf16")],
)  # which make the steps of EfficientSRModel
def test_a_step_makes_everything_on_the_gpu_and_reads_nothing(tmp_path, name, way):
    opt = everything(tmp_path, name, num_gpu=1, **WAYS[way])
    with fake_gpu() as gpu, mock.patch.object(distillation_model, "build_teachers") as teachers:
        teachers.return_value = [SPAN(feature_channels=6, upscale=2)]  # such tensors cannot come from a file
        model = train(build(opt), [1, 2])
        assert model.optimizer_g.defaults["fused"]
        tensors = [*model.net_g.parameters(), *model.net_g.buffers(), *model.net_g_ema.parameters(), model.output]
        assert {tensor.device for tensor in (*tensors, *model.loss_terms.values())} == {gpu}
        with pytest.raises(DataDependentOutputException):
            model.get_current_log()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda lq: torch.zeros(len(lq), 3, 1, 1), "at least two devices"),
        (lambda lq: lq.sum().item(), "_local_scalar_dense"),
        (lambda lq: lq[lq > 0].sum(), "nonzero|index"),
    ],
)
def test_a_network_on_two_devices_or_that_reads_is_found(tmp_path, wrong, error):
    """The tests above could not fail otherwise."""
    opt = everything(tmp_path, "EfficientSRModel", num_gpu=1)
    with fake_gpu():
        model = build(opt)
        model.net_g.register_forward_pre_hook(lambda _, inputs: (inputs[0] + wrong(inputs[0]),))
        with pytest.raises(Exception, match=error):
            train(model, [1])
