"""Networks on a GPU give what they give on the CPU: images and the gradients of everything that is trained."""

import copy

import pytest
import torch
from fake_gpu import fake_gpu
from small_models import NETWORKS, with_updates

from dscsr_arch import CSSRNet
from dscsr_arch.architecture import architectures
from dscsr_arch.conv_lora import inject
from dscsr_arch.pruning import prune
from dscsr_arch.reparameterized import Reparameterized

MADE = {name: (lambda name=name: architectures()[name].network(**NETWORKS[name])) for name in architectures()}
MADE |= {
    "SPAN fused": lambda: MADE["SPAN"]().fuse().requires_grad_(True),
    "EDSR with DoRA": lambda: with_updates(inject(MADE["EDSR"](), {"body": (2, 4)}, dora=True), 0.1),
    "CSSRNet": lambda: CSSRNet({"type": "EDSR", **NETWORKS["EDSR"]}, widths=[0.5]),
}


def images_and_gradients(network, x):
    """What it makes of ``x``, of the smallest width first if there are several, and the gradients of its squares."""
    outputs = network(x)
    outputs = [outputs[width] for width in sorted(outputs)] if isinstance(outputs, dict) else [outputs]
    sum(output.square().mean() for output in outputs).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
    return [tensor.detach().cpu().double() for tensor in (*outputs, *gradients)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)], ids=str)
@pytest.mark.parametrize("name", MADE)
def test_images_and_gradients_are_those_of_the_cpu(device, name, dtype, tolerance):
    network = MADE[name]().double()
    x = torch.rand(2, 3, 13, 10, dtype=torch.float64)
    expected = images_and_gradients(copy.deepcopy(network), x)
    got = images_and_gradients(network.to(device, dtype), x.to(device, dtype))
    assert len(got) == len(expected) > 1
    for one, other in zip(got, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", MADE)
def test_on_a_pretended_gpu_nothing_is_made_elsewhere_or_read(name):
    with fake_gpu() as gpu:
        network = MADE[name]().to(gpu)
        outputs = network(torch.rand(1, 3, 8, 9, device=gpu))
        assert {each.device for each in (outputs.values() if isinstance(outputs, dict) else [outputs])} == {gpu}


def test_a_network_is_pruned_where_it_is(device):
    network, x = MADE["SPAN fused"]().eval(), torch.rand(1, 3, 9, 8)
    expected = prune(network, 4, x).network(x)
    got = prune(network.to(device), 4, x.to(device)).network.to(device)(x.to(device))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MADE if "fused" not in name])
def test_what_is_fused_or_loaded_stays_on_the_device(device, name):
    network = MADE[name]().to(device)
    if isinstance(network, Reparameterized):
        network.load_state_dict(MADE[name]().state_dict())  # from the CPU
        x = torch.rand(1, 3, 7, 9, device=device)
        with torch.no_grad():
            before, after = network(x), network.fuse()(x)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} == {device.type}
