"""`dscsr prepare --teacher`: what is stored, what it refuses, and a training that takes it in place of the teacher."""

import os

import numpy as np
import pytest
import torch
from option_files import images_of
from PIL import Image

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import load_model, save_state_dict
from dscsr_model.cli import main
from dscsr_model.data.lmdb_store import LmdbReader
from dscsr_model.data.teacher_store import TeacherReader
from dscsr_model.inference.tiles import Upscaler
from dscsr_model.stored_values import ZERO, as_values
from dscsr_model.tiling import self_ensemble
from dscsr_model.training.precision import Precision
from dscsr_model.training.teacher import Teacher

HALF_A_STEP = 0.5 / 43605
ROUNDING = 2e-6
"""Of float32, in networks whose outputs are about 1."""


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys, without_workers):
    """Run the command in ``tmp_path``; gives its exit code, and what it said in both streams."""

    def run(*args):
        code = main(["prepare", *map(str, args)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    for name in ("one", "two"):
        network = SPAN(feature_channels=4, upscale=2)
        network.upsampler[0].weight.data *= 0.05
        network.upsampler[0].bias.data += 0.4  # outputs of about 0.2 to 0.7
        save_state_dict({"params": network.state_dict()}, tmp_path / f"{name}.pth")
    (tmp_path / "hr").mkdir()
    for name, height, width in (("a", 150, 130), ("b", 131, 160), ("held", 40, 40)):
        small = np.random.default_rng(height).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / f"hr/{name}.png")
    return run


PHOTOGRAPHS = ("--gt", "hr", "--out", "data", "--scale", 2)


def as_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255


def test_the_mean_of_teachers_on_whole_photographs_in_float64(prepare):
    """Cut like the pairs. A teacher that sees a part alone says the same inside, and something else at the ends."""
    assert prepare(*PHOTOGRAPHS, "--crop-size", 0)[0] == 0
    whole = images_of(LmdbReader("data/LQ_X2.lmdb"))
    code, said = prepare(
        *PHOTOGRAPHS, "--crop-size", 100, "--step", 40, "--force", "--teacher", "one.pth", "two.pth", "--self-ensemble"
    )
    assert code == 0
    assert "data/TEACHER_X2.lmdb" in said
    assert "Next: `dataroot_teacher: data/TEACHER_X2.lmdb`" in said
    lq, stored = images_of(LmdbReader("data/LQ_X2.lmdb")), images_of(reader := TeacherReader("data/TEACHER_X2.lmdb"))
    assert reader.record.words == "the mean of SPAN (one.pth) and SPAN (two.pth), self-ensembled"
    assert stored.keys() == lq.keys()
    teacher = Teacher(
        [load_model("one.pth"), load_model("two.pth")], ensemble=True, precision=Precision("fp32", torch.device("cpu"))
    )
    parts = 0
    for name, image in whole.items():
        with torch.no_grad():
            outputs = [self_ensemble(load_model(f"{file}.pth").double(), as_tensor(image)) for file in ("one", "two")]
        mean = torch.stack(outputs).mean(0)
        for key in (key for key in stored if key.startswith(f"{name}_s")):
            window = np.lib.stride_tricks.sliding_window_view(image, lq[key].shape)[:, :, 0]
            (top, left), *_ = np.argwhere((window == lq[key]).all((2, 3, 4)))
            height, width = lq[key].shape[:2]
            values = as_values(torch.from_numpy(stored[key])).permute(2, 0, 1)[None].double()
            expected = mean[..., 2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
            torch.testing.assert_close(values, expected, rtol=0, atol=HALF_A_STEP + ROUNDING)
            if height == width == 50:
                live = teacher(as_tensor(lq[key]).float()).output.double()
                inner = (..., slice(44, -44), slice(44, -44))  # SPAN sees 21 pixels, here 42
                torch.testing.assert_close(live[inner], values[inner], rtol=0, atol=HALF_A_STEP + ROUNDING)
                assert (live - values).abs().max() > 100 * HALF_A_STEP
                parts += 1
    assert parts > 4
    assert prepare("--verify", "data")[0] == 0


def test_overshoots_are_kept_and_what_16_bits_do_not_reach_is_told(prepare):
    """Black is black, a level a level, and values to -0.25 and 1.25 are themselves."""
    assert torch.equal(as_values(torch.tensor([ZERO + 171 * 200], dtype=torch.int16)), torch.tensor([200 / 255]))
    network = SPAN(feature_channels=4, upscale=2)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    network.upsampler[0].bias.data = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.8, 2.0, 2.0, 2.0, 2.0])
    save_state_dict({"params": network.state_dict()}, "one.pth")
    code, said = prepare(*PHOTOGRAPHS, "--teacher", "one.pth", "--set", "img_range=1", "--param-key", "params")
    assert code == 0
    assert TeacherReader("data/TEACHER_X2.lmdb").record.words == "SPAN (one.pth, param_key params, img_range 1)"
    assert "  33.33% of its values lie beyond [-0.25, 1.25], and are kept as the end of that." in said
    values = as_values(torch.from_numpy(images_of(TeacherReader("data/TEACHER_X2.lmdb"))["a_s001"]))
    assert (values[0, 0] - torch.tensor([0.2, 0.8, 1.2515])).abs().max() < 1e-4


def test_for_lmdbs_that_are_there_and_nothing_half_made(prepare, monkeypatch):
    assert prepare(*PHOTOGRAPHS, "--crop-size", 0, "--hold-out", 1)[0] == 0
    make, calls = Upscaler.__call__, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(*args)

    monkeypatch.setattr(Upscaler, "__call__", interrupted)
    assert prepare("--out", "data", "--teacher", "one.pth")[0] == 130
    assert sorted(os.listdir("data")) == ["GT.lmdb", "GT_val", "LQ_X2.lmdb", "LQ_X2_val"]
    code, said = prepare("--out", "data", "--teacher", "one.pth")
    assert code == 0
    assert "2 images of data/LQ_X2.lmdb x2 by SPAN (one.pth)" in said
    save_state_dict({"params": SPAN(feature_channels=4, upscale=4).state_dict()}, "x4.pth")
    code, said = prepare("--out", "data", "--teacher", "x4.pth")
    assert code == 1
    assert "of the scale of the LQ images in data, but got one of scale 4, and LQ_X2.lmdb. Take another" in said
    assert "sub-images" not in said
    again = prepare("--out", "data", "--teacher", "two.pth")
    assert again[0] == 1
    assert "which exists. Pass --force to replace" in again[1]
    code, said = prepare("--verify", "data")
    assert "data/TEACHER_X2.lmdb: 2 outputs of LQ_X2.lmdb by SPAN (one.pth)" in said
    code, said = prepare(*PHOTOGRAPHS, "--crop-size", 64, "--hold-out", 1, "--force")
    assert code == 1
    assert "Expected --teacher, since data/TEACHER_X2.lmdb was made of the pairs that are here, but got none." in said
    assert prepare("--gt", "hr", "--out", "parts", "--scale", 2, "--crop-size", 64, "--step", 64)[0] == 0
    assert "These are sub-images: at their ends" in prepare("--out", "parts", "--teacher", "one.pth")[1]
    os.replace("parts/TEACHER_X2.lmdb", "data/OTHER.lmdb")
    assert "data/OTHER.lmdb: made of other LQ images than those" in prepare("--verify", "data")[1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--out", "data", "--teacher", "one.pth"), "Expected an LMDB with data.mdb and meta_info.txt, but got no"),
        (("--out", "data", "--teacher", "nowhere.pth"), "nowhere.pth"),
        (("--out", "data", "--teacher", "one.pth", "--degrade", "jpeg=9", "--hold-out", 1),
         "Expected no arguments that make pairs beside --teacher, but got --degrade, --hold-out."),
        (("--verify", "data", "--teacher", "one.pth"), "make pairs beside --verify, but got --teacher."),
        (("--out", "data", "--teacher", "one.pth", "--scale", "4"), "Expected a teacher of --scale 4, but got one of"),
        ((*PHOTOGRAPHS, "--self-ensemble"), "Expected --teacher WEIGHTS beside --self-ensemble"),
        ((*PHOTOGRAPHS[:-1], 4, "--teacher", "one.pth"), "Expected a teacher of scale 4, but got one of scale 2."),
        ((*PHOTOGRAPHS, "--color", "gray", "--teacher", "one.pth"), "for images of 1 channel, which LQ has, but got"),
        ((*PHOTOGRAPHS, "--teacher", "one.pth", "x4.pth"), "Expected networks of one kind, scale 2 and 3 channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(prepare, tmp_path, args, message):
    save_state_dict({"params": SPAN(feature_channels=4, upscale=4).state_dict()}, tmp_path / "x4.pth")
    code, said = prepare(*args)
    assert code == 1
    assert message in said
    assert not os.path.exists("data")
