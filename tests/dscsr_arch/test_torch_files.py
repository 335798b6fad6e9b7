"""The reader of torch.save's files beside torch's own, and under damaged files."""

import io
import random
import resource
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import WeightsError
from dscsr_arch.weight_files import read_pickle, read_state_dict
from dscsr_model.training.checkpoints import random_state


def training_state():
    """What BasicSR and our models save: every kind of number, views, shared storages, schedulers, random states."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    shared = torch.rand(5, 7)
    return {
        "params": network.state_dict(),
        "epoch": 3, "iter": -70_000, "large": 2**40, "nothing": None, "flags": [True, False], "rate": 1e-4, 7: (),
        "optimizers": [optimizer.state_dict()],
        "schedulers": [torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 5, 9]).state_dict()],
        "random": random_state(),
        "types": [torch.ones(2, 3, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.bool)],
        "bytes": torch.ones(3).to(torch.float8_e4m3fn),
        "views": [shared, shared.t(), shared[1:3, ::2], shared[0, 0], shared[:0], shared[:1].expand(9, 7)],
        "parameter": torch.nn.Parameter(shared),
        "size": shared.shape,
    }  # fmt: skip


def same(one, other):
    """Whether two files hold the same, whatever mappings are made of."""
    if isinstance(other, torch.Tensor):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        return torch.equal(one.double(), other.double())
    if isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], value) for name, value in other.items())
    if isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("zipped", [True, False])
def test_real_files_read_as_torch_reads_them(tmp_path, zipped):
    state = training_state()
    if not zipped:
        del state["bytes"]  # torch writes 8 bits into this form, but cannot read them
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    content = read_pickle(tmp_path / "w.pth")
    assert same(content, torch.load(tmp_path / "w.pth", weights_only=True))
    views = content["views"]
    assert views[0].untyped_storage().data_ptr() == views[1].untyped_storage().data_ptr()  # shared ones stay shared


class Masked:
    """Pickles as a state dict with attributes in place of its methods, and of those of a tensor in it."""

    def __reduce__(self):
        state = SPAN(feature_channels=4).state_dict()
        state["conv_cat.bias"] = bias = torch.nn.Parameter(state["conv_cat.bias"])
        bias.numel = bias.to = bias.element_size = bias.detach = 5
        masks = dict.fromkeys(["items", "get", "keys", "values", "__len__", "copy"], "not a method")
        return OrderedDict, (), masks, None, iter(state.items())


def test_attributes_that_a_pickle_hangs_onto_its_objects_are_dropped(tmp_path):
    torch.save(Masked(), tmp_path / "w.pth")
    assert type(read_pickle(tmp_path / "w.pth")) is dict
    assert type(read_state_dict(tmp_path / "w.pth")["conv_cat.bias"]) is torch.Tensor
    assert load_model(tmp_path / "w.pth").upscale == 4


def test_another_byte_order_is_no_noise(file, tmp_path):
    with zipfile.ZipFile(file({"a": torch.ones(2)})) as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(WeightsError, match="numbers in the byte order of another machine"):
        read_pickle(tmp_path / "big.pth")


def seeds():
    """Real files in every container, with where their Python is: most changes there matter, few in numbers do."""
    network = SPAN(feature_channels=2, upscale=2).fuse()
    state = {"params": network.state_dict(), "metadata": {"dscsr": "1", "network": "SPAN", "arguments": "{}"}}
    for content in (training_state(), state):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            yield ".pth", buffer.getvalue()
    yield ".safetensors", save(state["params"], {"format": "pt"})


def damaged(content, draw):
    """A few bytes changed, a piece cut out, doubled, or moved, or the end missing; within an archive, also its sums."""
    start = content[:4] == b"PK\x03\x04" and draw.random() < 0.7
    if start:  # the pickle alone, in an archive that is in order
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = draw.choice([name for name in members if name.endswith("data.pkl")] * 5 + list(members))
        members[name] = damaged(members[name] or b"N.", draw)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member)
        return buffer.getvalue()
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        at = int(len(changed) * draw.random() ** draw.choice([1, 3]))  # what matters stands at the start
        end = at + int(draw.expovariate(1 / 20)) + 1
        match draw.randrange(6):
            case 0 | 1 | 2:
                changed[at:end] = draw.randbytes(draw.choice([1, 1, end - at]))
            case 3:
                changed[at:at] = changed[at:end] * draw.choice([1, 1, 1000])
            case 4:
                del changed[at:end]
            case 5:
                changed[at : at + 8] = struct.pack("<q", draw.choice([2**31 - 1, 2**40, -1, 2**62]))
    return bytes(changed[: len(changed) if draw.random() < 0.9 else draw.randrange(len(changed) + 1)])


@pytest.mark.parametrize("count", [300, pytest.param(8000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error", "ignore::dscsr_arch.arguments.AssumedWarning")
def test_damaged_files_give_one_kind_of_error(tmp_path, count):
    files = list(seeds())
    memory, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(count):
        draw = random.Random(number)
        suffix, content = draw.choice(files)
        path = tmp_path / f"w{suffix}"
        path.write_bytes(damaged(content, draw))
        start = time.process_time()
        try:
            read_state_dict(path) if number % 20 else load_model(path)
        except WeightsError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"file {number}") from error
        assert time.process_time() - start < 5, number
    assert count / 2 < refused < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024  # KiB
