"""Files made to do harm, or of another kind: nothing runs, little memory is taken, one message is given."""

import io
import json
import os
import pickle
import resource
import struct
import tarfile
import time
import zipfile

import pytest
import torch
from safetensors.torch import save

from dscsr_arch import CARN, SPAN, load_model
from dscsr_arch.conv_lora import inject, lora_state_dict
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.weight_files import WeightsError, read_state_dict

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
    "eval, protocol 4": lambda: pickle.dumps(Call(eval, "open('exploded', 'w')"), protocol=4),
    "global": lambda: b"cposix\nsystem\n(S'" + COMMAND.encode() + b"'\ntR.",
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
    if kind in ("reduce", "global", "inst", "obj"):  # the trap itself works
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


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def terabytes_before_1_6():
    small = saved({"a": torch.zeros(7)}, _use_new_zipfile_serialization=False)
    return small.replace(b"K\x07N", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"N")


EDSR = {
    "conv_first.weight": torch.zeros(4, 3, 3, 3), "body.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    "conv_after_body.weight": torch.zeros(4, 4, 3, 3), "conv_last.weight": torch.zeros(3, 4, 3, 3),
}  # fmt: skip
HUGE = {
    "strides of 0": ("pth", lambda: saved(shapes_without_numbers(10**5)), "weights that are in the file, but .* claim"),
    "one wide layer": (
        "pth",
        lambda: saved({**STATE, "conv_1.sk.weight": torch.zeros(10**6, 3, 1, 1)}),
        r"does not fit SPAN\(.*feature_channels=1000000",
    ),
    "no numbers": (
        "pth",
        lambda: saved({n: torch.zeros(10**9, *(0,) * (t.ndim - 1)) if t.ndim > 1 else t for n, t in STATE.items()}),
        "Cannot build SPAN",
    ),
    "many layers": (
        "pth",
        lambda: saved({**EDSR, "body.100000000.conv1.weight": torch.zeros(1)}),
        "as many layers as the file has weights for, but their numbers go up to 100000001",
    ),
    "deflated": ("pth", deflated, "but got an archive of .* bytes that would unpack to 20,"),
    "storage": ("pth", terabytes_before_1_6, "Expected a whole weight file"),
    "bytearray": (
        "pth",
        lambda: b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.",
        "Expected (plain weights|a whole weight file)",
    ),
    "header": (
        "safetensors",
        lambda: header({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}),
        "Expected a whole weight file",
    ),
    "long header": ("safetensors", lambda: struct.pack("<Q", 2**60) + b"{}", "Expected a whole weight file"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_huge_claims_take_little_memory_and_time(tmp_path, kind):
    suffix, make, message = HUGE[kind]
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(make())
    load_model_of_edsr = kind == "many layers"
    if load_model_of_edsr:  # looks its class up first, which takes an import
        with pytest.raises(WeightsError, match="Cannot build EDSR"):
            load_model(path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(WeightsError, match=message):
        load_model(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB: the largest file has 12 MB


ODD = {
    "sparse": ("pth", lambda: saved({n: t.to_sparse() for n, t in STATE.items()}), "dense tensors .*sparse_coo"),
    "meta": ("pth", lambda: saved({n: t.to("meta") for n, t in STATE.items()}), "a shape without numbers for conv_1"),
    "complex": (
        "pth",
        lambda: saved({n: t.cfloat() for n, t in STATE.items()}),
        "got torch.complex64",
    ),
    "escapes": ("pth", lambda: saved({"\x1b[31mred": torch.ones(1)}), r"the keys '\\x1b\[31mred'\. Give"),
    "safetensors as pth": ("pth", lambda: save(STATE), r"but got a safetensors file. Rename it to w\.safetensors"),
    "pth as safetensors": ("safetensors", lambda: saved(STATE), r"but got one of torch.save. Rename it to w\.pth"),
    "text": ("pth", lambda: b"hello\n" * 50, "Expected (plain weights|a whole weight file)"),
    "empty safetensors": ("safetensors", lambda: b"", "Expected a whole weight file"),
    "not finite": (
        "pth",
        lambda: saved({**STATE, "conv_cat.bias": torch.tensor([1, float("nan"), 1, float("inf")])}),
        "Expected finite weights in .*, but conv_cat.bias has 2 of 4 .* Take an earlier checkpoint",
    ),
    "scalars": ("pth", lambda: saved({n: t.flatten()[0] for n, t in STATE.items()}), "Cannot build SPAN"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("error")
def test_files_of_another_kind_get_one_message(tmp_path, kind):
    suffix, make, message = ODD[kind]
    (tmp_path / f"w.{suffix}").write_bytes(make())
    with pytest.raises(WeightsError, match=message):
        load_model(tmp_path / f"w.{suffix}")


def test_a_layer_used_twice_is_no_lie(tmp_path):
    shared = torch.rand(1000)
    torch.save({"params": {"a": shared, "b": shared, "c": shared}}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth").keys() == {"a", "b", "c"}


def test_metadata_are_no_weights(tmp_path):
    torch.save({"params": STATE, "metadata": {"dscsr": "1"}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="but got the keys 'params'"):
        read_state_dict(tmp_path / "w.pth", "params_ema")


def test_a_student_is_not_cut_out_of_fused_weights(tmp_path):
    network = SPAN(feature_channels=8, upscale=2)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    student = load_model(tmp_path / "net.pth", width=0.5)
    assert student.conv_cat.out_channels == 4
    torch.save(network.fuse().state_dict(), tmp_path / "fused.pth")
    with pytest.raises(WeightsError, match=r"weights with their branches .* fused kernels of a student are no slices"):
        load_model(tmp_path / "fused.pth", width=0.5)


def test_a_fused_cssr_net_has_its_students_beside_it(tmp_path):
    shared = CSSRNet({"type": "SPAN", "feature_channels": 8, "upscale": 2}, widths=(0.25, 0.5)).eval()
    x = torch.rand(1, 3, 5, 4)
    with torch.no_grad():
        wanted = {width: shared(x, width=width) for width in (0.25, 0.5, 1.0)}
        torch.save(shared.fuse().state_dict(), tmp_path / "w.pth")
        for width in wanted:
            torch.testing.assert_close(load_model(tmp_path / "w.pth", width=width)(x), wanted[width], rtol=0, atol=1e-4)
        torch.testing.assert_close(load_model(tmp_path / "w.pth")(x), wanted[1.0], rtol=0, atol=1e-4)
    with pytest.raises(WeightsError, match=r"Expected a width among 0\.25, 0\.5 in .*, but got 0\.75. Choose one"):
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
    with pytest.raises(WeightsError, match=r"Expected finite weights in .*lora\.pth, but entry\.lora_B has"):
        load_model(tmp_path / "lora.pth", base=tmp_path / "base.pth")
