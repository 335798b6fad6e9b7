"""Files made to do harm, or of another kind: nothing runs, little memory is taken, one message is given."""

import io
import os
import pickle
import resource
import struct
import tarfile
import time
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save

from dscsr_arch import CARN, SPAN, load_model
from dscsr_arch.conv_lora import inject, lora_state_dict
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.errors import WeightsError
from dscsr_arch.weight_files import read_state_dict, weight_sets

STATE = SPAN(feature_channels=4, upscale=2).state_dict()


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


COMMAND = "touch exploded"
RUNS = {
    "reduce": lambda: pickle.dumps({"params": Call(os.system, COMMAND)}, protocol=2),
    "inst": lambda: b"(S'" + COMMAND.encode() + b"'\nios\nsystem\n.",
    "obj": lambda: b"(cos\nsystem\nS'" + COMMAND.encode() + b"'\no.",
    "zip": lambda: saved({"params": {"a": Call(os.system, COMMAND)}}),
    "before 1.6": lambda: saved({"params": {"a": Call(os.system, COMMAND)}}, _use_new_zipfile_serialization=False),
    "tar": lambda: tarred(pickle.dumps(Call(os.system, COMMAND), protocol=2)),
}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def tarred(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", RUNS)
def test_code_in_a_file_never_runs(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content = RUNS[kind]()
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"Expected (plain weights|a whole weight file)"):
        load_model(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()
    if kind in ("reduce", "inst", "obj"):  # the trap itself works
        pickle.loads(content)
        assert (tmp_path / "exploded").exists()


def shapes_without_numbers(channels):
    with torch.device("meta"):
        network = SPAN(feature_channels=channels)
    return {name: torch.zeros(1).expand(tensor.shape) for name, tensor in network.state_dict().items()}


def deflated():
    """Twenty megabytes of zeros in some twenty kilobytes."""
    content, buffer = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(5_000_000)}))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in content.infolist():
            archive.writestr(entry.filename, content.read(entry.filename))
    return buffer.getvalue()


def deflated_with_two_lists():
    """The same, with a second list of contents behind the first, where Python's reader looks for it; torch does not."""
    content = deflated()
    *ends, size, start, _ = struct.unpack("<4s4H2LH", content[-22:])
    harmless = bytearray(content[start : start + size])
    at = 0
    while (at := harmless.find(b"PK\x01\x02", at)) >= 0:
        harmless[at + 24 : at + 28] = bytes(4)  # the size when unpacked
        at += 4
    return content[:-22] + bytes(harmless) + struct.pack("<4s4H2LH", *ends, size, start, 0)


def terabytes_before_1_6():
    small = saved({"a": torch.zeros(7)}, _use_new_zipfile_serialization=False)
    return small.replace(b"K\x07N", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"N")


def zipped(pickle):
    """A file of torch.save with this pickle and one storage, of four bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickle)
        archive.writestr("a/data/0", bytes(4))
    return buffer.getvalue()


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value):
    return b"\x8a\x09" + value.to_bytes(9, "little")


def call(name, arguments):
    return b"c" + name + b"\n(" + arguments + b"tR."


def view(size, stride=None):
    """A tensor of this size on a storage of one number."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
    size, stride = (b"(" + b"".join(map(integer, axes)) + b"t" for axes in (size, stride or (1,) * len(size)))
    return b"}" + text("a") + call(b"torch._utils\n_rebuild_tensor_v2", storage + b"K\x00" + size + stride)[:-1] + b"s."


DOUBLED = b")" + b"q\x00h\x00\x86" * 60
"""A tuple that would take 2**60 steps to hash, compare or print."""


def many_members():
    """An archive whose list of contents would take hundreds of megabytes as Python's objects."""
    content = zipped(b"N.")
    *ends, size, start, _ = struct.unpack("<4s4H2LH", content[-22:])
    listed = content[start : start + size] * 100_000
    return content[:start] + listed + struct.pack("<4s4H2LH", *ends, len(listed), start, 0)


def many_tensors():
    """A header that would take hundreds of megabytes as Python's objects."""
    text = ",".join(f'"{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(200_000))
    return struct.pack("<Q", len(text) + 2) + f"{{{text}}}".encode()


def laughing():
    """A list of lists that prints as terabytes."""
    lines = ["ha"] * 10
    for _ in range(12):
        lines = [lines] * 10
    return lines


EDSR = {
    "conv_first.weight": torch.zeros(4, 3, 3, 3), "body.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    "conv_after_body.weight": torch.zeros(4, 4, 3, 3), "conv_last.weight": torch.zeros(3, 4, 3, 3),
}  # fmt: skip


def program():
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), buffer)
    return buffer.getvalue()


DAMAGED = "Expected a whole weight file"
BAD = {
    "strides of 0": (lambda: saved(shapes_without_numbers(10**5)), "weights that are in the file, but .* claim"),
    "one wide layer": (
        lambda: saved({**STATE, "conv_1.sk.weight": torch.zeros(10**6, 3, 1, 1)}),
        r"does not fit SPAN\(.*feature_channels=1000000",
    ),
    "no numbers": (
        lambda: saved({n: torch.zeros(10**9, *(0,) * (t.ndim - 1)) if t.ndim > 1 else t for n, t in STATE.items()}),
        "Expected num_out_ch·upscale² channels",
    ),
    "many layers": (
        lambda: saved({**EDSR, "body.100000000.conv1.weight": torch.zeros(1)}),
        "as many layers as there are weights, but got numbers of layers up to 100000001",
    ),
    "deflated": (deflated, "but got a compressed archive of .* bytes that would unpack to 20,"),
    "deflated, two lists": (deflated_with_two_lists, "but got a compressed archive"),
    "storage": (terabytes_before_1_6, DAMAGED),
    "metadata": (lambda: saved({"params": STATE, "metadata": {"dscsr": laughing()}}), r"but got \(list\)\. Upd"),
    "keys": (lambda: saved({5: 1, "a": laughing()}), r"with the keys 5, 'a'\. Give"),
    "bytearray": (lambda: zipped(call(b"builtins\nbytearray", integer(2 * 10**10))), "object of Python.*bytearray"),
    "doubled tuples": (lambda: zipped(b"}(" + DOUBLED + b"K\x01u."), r"a key that is no .* \(tuple\)"),
    "doubled tuples in a tensor": (
        lambda: zipped(b"ctorch._utils\n_rebuild_tensor_v2\n(" + DOUBLED * 4 + b"tR."),
        DAMAGED,
    ),
    "keys of one hash": (lambda: zipped(b"}(" + integer(2**61 - 1) + b"Nu."), r"a key .* \(int\)"),
    "steps": (lambda: zipped(b"(" * 1_000_100 + b"."), "more objects than the weights"),
    "arguments": (
        lambda: zipped(b"(" + b"N" * 10**5 + b"tq\x00ctorch\nSize\nq\x01" + b"h\x01h\x00R" * 10**5 + b"."),
        "but got a call with 100000 arguments",
    ),
    "beyond the storage": (lambda: zipped(view((8,))), DAMAGED),
    "counted round": (lambda: zipped(view((2**32, 2**32 + 1), (0, 0))), DAMAGED),
    "contents": (many_members, "Expected (plain weights|a whole weight file)"),
    "many tensors": (many_tensors, DAMAGED, "safetensors"),
    "long header": (lambda: struct.pack("<Q", 2**60) + b"{}", DAMAGED, "safetensors"),
    "TorchScript": (program, "got a program of TorchScript or torch.export, which"),
    "ONNX": (lambda: b"\x08\x0a", "but got an ONNX model. Give the file that it was made from", "onnx"),
    "ncnn": (lambda: b"7767517\n", "but got a graph of ncnn. Give the file that it was made from", "param"),
    "no dimensions": (
        lambda: saved({**STATE, "upsampler.0.weight": torch.ones(())}),
        r"Expected all weights of SPAN, .* \(IndexError: tuple",
    ),
    "sparse": (
        lambda: saved({n: t.to_sparse() for n, t in STATE.items()}),
        "object of Python .*_rebuild_sparse_tensor",
    ),
    "escapes": (lambda: saved({"\x1b[31mred": torch.ones(1)}), r"the keys '\\x1b\[31mred'\. Give"),
    "safetensors as pth": (lambda: save(STATE), r"but got a safetensors file. Rename it to w\.safetensors"),
    "pth as safetensors": (lambda: saved(STATE), r"but got one of torch.save. Rename it to w\.pth", "safetensors"),
    "not finite": (
        lambda: saved({**STATE, "conv_cat.bias": torch.tensor([1, float("nan"), 1, float("inf")])}),
        "Expected finite weights, but got 2 of 4 in conv_cat.bias .* Take an earlier checkpoint",
    ),
    "scalars": (
        lambda: saved({n: t.flatten()[0] for n, t in STATE.items()}),
        "weights of SPAN, in shapes that it has",
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_get_one_message_and_take_little_memory_and_time(tmp_path, kind):
    make, message, *suffix = BAD[kind]
    path = tmp_path / f"w.{suffix[0] if suffix else 'pth'}"
    path.write_bytes(make())
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(WeightsError, match=message):
        load_model(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB: the largest file has 12 MB


def test_a_file_that_may_not_be_read_gets_the_reason(file, monkeypatch):
    path = file(STATE)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)  # root may read anything
    with pytest.raises(WeightsError, match=r"Expected to read .*w\.pth, but got Permission denied. Check who may"):
        load_model(path)


@pytest.mark.parametrize("width", [0, 1.5, float("nan"), "a"])
def test_a_width_is_a_part_of_the_backbone(file, width):
    with pytest.raises(WeightsError, match=r"Expected `width` to be a part of the backbone's, in \(0, 1\], but got"):
        load_model(file(STATE), width=width)


def test_a_layer_used_twice_is_no_lie(file):
    shared = torch.rand(1000)
    assert read_state_dict(file({"params": {"a": shared, "b": shared, "c": shared}})).keys() == {"a", "b", "c"}


@pytest.mark.parametrize(("said", "taken"), [("params", 1), ("params_ema", 2), ("state_dict", 2), (torch.ones(2), 2)])
def test_a_file_says_which_weights_are_the_better_ones(file, said, taken):
    both = {"params": {"a": torch.tensor(1.0)}, "params_ema": {"a": torch.tensor(2.0)}}
    path = file({**both, "metadata": {"preferred": said}})
    assert read_state_dict(path)["a"] == taken
    assert read_state_dict(path, "params_ema")["a"] == 2
    assert weight_sets(path)[0] == {1: "params", 2: "params_ema"}[taken]


def test_metadata_are_no_weights(file):
    with pytest.raises(WeightsError, match="but got the keys 'params'"):
        read_state_dict(file({"params": STATE, "metadata": {"dscsr": "1"}}), "params_ema")


def test_a_student_is_not_cut_out_of_fused_weights(file):
    network = SPAN(feature_channels=8, upscale=2)
    student = load_model(file(network.state_dict(), "net.pth"), width=0.5)
    assert student.conv_cat.out_channels == 4
    with pytest.raises(WeightsError, match=r"weights with their branches, .* fused kernels of a student are no slices"):
        load_model(file(network.fuse().state_dict(), "fused.pth"), width=0.5)


def test_a_fused_cssr_net_has_its_students_beside_it(tmp_path):
    shared = CSSRNet({"type": "SPAN", "feature_channels": 8, "upscale": 2}, widths=(0.25, 0.5)).eval()
    x = torch.rand(1, 3, 5, 4)
    with torch.no_grad():
        wanted = {width: shared(x, width=width) for width in (0.25, 0.5, 1.0)}
        torch.save(shared.fuse().state_dict(), tmp_path / "w.pth")
        for width in wanted:
            torch.testing.assert_close(load_model(tmp_path / "w.pth", width=width)(x), wanted[width], rtol=0, atol=1e-4)
        torch.testing.assert_close(load_model(tmp_path / "w.pth")(x), wanted[1.0], rtol=0, atol=1e-4)
    with pytest.raises(WeightsError, match=r"Expected a width among 0\.25, 0\.5, but got 0\.75. Choose one"):
        load_model(tmp_path / "w.pth", width=0.75)


def test_adapters_have_no_width_and_must_be_finite(tmp_path):
    network = CARN(num_feat=4, upscale=2)
    torch.save(network.state_dict(), tmp_path / "base.pth")
    adapters = lora_state_dict(inject(network, {"entry": (1, 2)}))
    torch.save(adapters, tmp_path / "lora.pth")
    with pytest.raises(WeightsError, match="Expected either a base of LoRA adapters or a width, but got both"):
        load_model(tmp_path / "lora.pth", base=tmp_path / "base.pth", width=0.5)
    adapters["entry.lora_B"] = adapters["entry.lora_B"] + float("inf")
    torch.save(adapters, tmp_path / "lora.pth")
    with pytest.raises(WeightsError, match=r"lora\.pth: Expected finite weights, but got .* in entry\.lora_B"):
        load_model(tmp_path / "lora.pth", base=tmp_path / "base.pth")
