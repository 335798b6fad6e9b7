"""`dscsr prepare` on real photographs; in a process of its own where it is killed."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from option_files import images_of
from PIL import Image

from dscsr_model.cli import main
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.degrade import Step, degrade
from dscsr_model.data.lmdb_store import LmdbReader, read_meta
from dscsr_model.data.paired_crop_dataset import PairedCropDataset


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys, without_workers):
    """Run the command in ``tmp_path``, without processes of its own; returns its exit code and what it said."""

    def run(*args):
        try:
            code = main(["prepare", *map(str, args)])
        except SystemExit as ended:
            code = ended.code
        return SimpleNamespace(returncode=code, **dict(zip(("stdout", "stderr"), capsys.readouterr(), strict=True)))

    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def photographs(tmp_path):
    """Four photographs of scikit-image as files in ``hr``."""
    skimage = pytest.importorskip("skimage", reason="its photographs are the test images")
    (tmp_path / "hr").mkdir()
    images = {}
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        images[Path(name).stem] = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB"))
        Image.fromarray(images[Path(name).stem]).save(tmp_path / "hr" / f"{Path(name).stem}.png")
    return images


def read(path):
    return images_of(LmdbReader(path))


def failed(process, *parts):
    """It ended with code 1 and one message that has all parts, without a traceback."""
    assert process.returncode == 1, process.stdout + process.stderr
    message = process.stderr[process.stderr.index("dscsr: error: ") :]
    assert "Traceback" not in process.stderr
    for part in parts:
        assert part in message
    return True


@pytest.mark.parametrize("image_format", ["raw", "png"])
def test_pairs_as_basicsr_would_cut_them(prepare, photographs, tmp_path, image_format):
    process = prepare(
        "--gt", "hr", "--out", "new/data", "--scale", 4, "--format", image_format, "--crop-size", 240, "--step", 120
    )
    assert process.returncode == 0, process.stderr
    assert sorted(os.listdir(tmp_path / "new" / "data")) == ["GT.lmdb", "LQ_X4.lmdb"]
    gt, lq = read(tmp_path / "new/data/GT.lmdb"), read(tmp_path / "new/data/LQ_X4.lmdb")
    assert gt.keys() == lq.keys()
    expected = 0
    for name, image in photographs.items():
        height, width = (side // 4 * 4 for side in image.shape[:2])
        small = downscale(image[:height, :width], 4)
        tops, lefts = ([*range(0, side - 239, 120)] for side in (height, width))
        tops += [height - 240] if height - tops[-1] > 240 else []
        lefts += [width - 240] if width - lefts[-1] > 240 else []
        for number, (top, left) in enumerate([(top, left) for top in tops for left in lefts], 1):
            key = f"{name}_s{number:03d}"
            np.testing.assert_array_equal(gt[key], image[top : top + 240, left : left + 240])
            np.testing.assert_array_equal(lq[key], small[top // 4 : top // 4 + 60, left // 4 : left // 4 + 60])
            expected += 1
    assert len(gt) == expected
    level = {"raw": 0, "png": 1}[image_format]
    assert read_meta(tmp_path / "new/data/LQ_X4.lmdb")["coffee_s001"] == ((60, 60, 3), level)
    lines = process.stdout.splitlines()
    assert lines[0].startswith(f"4 images -> {expected} pairs x4, up to 240 pixels, {image_format}, in ")
    assert "new/data/GT.lmdb" in lines[1]
    assert "MiB" in lines[1]
    assert "preparing: 100%" in process.stderr
    assert prepare("--verify", "new/data").returncode == 0


def test_whole_images_and_odd_scales(prepare, photographs, tmp_path):
    process = prepare("--gt", "hr", "--out", "data", "--scale", 7, "--crop-size", 0)
    assert process.returncode == 0, process.stderr
    gt, lq = read(tmp_path / "data/GT.lmdb"), read(tmp_path / "data/LQ_X7.lmdb")
    assert set(gt) == set(photographs)
    for name, image in photographs.items():
        height, width = (side // 7 for side in image.shape[:2])
        np.testing.assert_array_equal(gt[name], image[: 7 * height, : 7 * width])
        np.testing.assert_array_equal(lq[name], downscale(gt[name], 7))
    prepare("--gt", "hr", "--out", "cut", "--scale", 7, "--crop-size", 200, "--step", 100)
    assert {shape for shape, _ in read_meta(tmp_path / "cut/LQ_X7.lmdb").values()} == {(28, 28, 3)}


def test_degraded_in_the_order_given(prepare, photographs, tmp_path):
    args = ("--gt", "hr", "--scale", 1, "--crop-size", 0, "--hold-out", 1)
    process = prepare(*args, "--out", "one", "--degrade", "blur=1.5", "noise=10", "jpeg=40")
    assert process.returncode == 0, process.stderr
    assert "LQ went through blur=1.5, then noise=10, then jpeg=40, and is rounded to 8 bits" in process.stdout
    assert "a copy of options/train_deblur_span.yml" in process.stdout
    gt, lq = read(tmp_path / "one/GT.lmdb"), read(tmp_path / "one/LQ_X1.lmdb")
    steps = [Step("blur", 1.5), Step("noise", 10), Step("jpeg", 40)]
    for key, image in gt.items():
        assert np.array_equal(image, photographs[key])
        assert np.array_equal(lq[key], degrade(image, steps, key))
    (held,) = (tmp_path / "one/LQ_X1_val").iterdir()
    assert np.array_equal(np.asarray(Image.open(held)), degrade(photographs[held.stem], steps, held.stem))
    assert (
        prepare("--gt", "hr", "--out", "half", "--scale", 2, "--crop-size", 0, "--degrade", "jpeg=40").returncode == 0
    )
    halves = read(tmp_path / "half/LQ_X2.lmdb")
    assert np.array_equal(halves["coffee"], degrade(downscale(photographs["coffee"], 2), steps[2:], ""))
    for wrong in ("blur", "jpeg=0", "jpeg=2.5", "fog=1", "noise=nan"):
        failed(prepare(*args, "--out", "two", "--degrade", wrong), "--degrade to be among blur=SIGMA", repr(wrong))


def test_given_lr_images(prepare, photographs, tmp_path):
    (tmp_path / "lr/x4").mkdir(parents=True)
    for name, image in photographs.items():
        Image.fromarray(255 - downscale(image, 4)).save(tmp_path / f"lr/x4/{name}x4.png")  # not what we would make
    process = prepare("--gt", "hr", "--lq", "lr", "--out", "data", "--scale", 4, "--crop-size", 0)
    assert process.returncode == 0, process.stderr
    lq = read(tmp_path / "data/LQ_X4.lmdb")
    for name, image in photographs.items():
        height, width = (side // 4 for side in image.shape[:2])
        np.testing.assert_array_equal(lq[name], 255 - downscale(image, 4)[:height, :width])


def test_every_kind_of_file(prepare, photographs, tmp_path):
    image = photographs["coffee"]
    folder = tmp_path / "mixed"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(folder / "turned.jpg", exif=exif, quality=98)
    Image.fromarray(image).save(folder / "web.webp", lossless=True)
    Image.fromarray(image).convert("L").save(folder / "gray.tif")
    Image.fromarray(np.dstack([image, image[:, :, :1]])).save(folder / "alpha.png")
    cv2.imwrite(str(folder / "deep.png"), image[:, :, ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep gray.tiff"), image[:, :, 1].astype(np.uint16) * 257)
    Image.fromarray(image).save(folder / "日本 café.v2.png")
    (folder / "notes.txt").write_text("no image")
    process = prepare("--gt", "mixed", "--out", "data", "--scale", 2, "--crop-size", 0)
    assert process.returncode == 0, process.stderr
    gt = read(tmp_path / "data/GT.lmdb")
    unicode_key = "%E6%97%A5%E6%9C%AC_caf%C3%A9_v2"
    assert set(gt) == {"turned", "web", "gray", "alpha", "deep", "deep_gray", unicode_key}
    for key in ("web", "alpha", "deep", unicode_key):
        np.testing.assert_array_equal(gt[key], image)
    np.testing.assert_array_equal(gt["deep_gray"], np.repeat(image[:, :, 1:2], 3, axis=2))
    np.testing.assert_array_equal(gt["gray"][..., 0], np.asarray(Image.fromarray(image).convert("L")))
    assert gt["turned"].shape == (image.shape[1], image.shape[0], 3)
    assert np.abs(gt["turned"].astype(int) - np.rot90(image, -1)).mean() < 3
    assert "1 image with an alpha channel" in process.stdout
    data_util = pytest.importorskip("basicsr.data.data_util")
    paths = data_util.paired_paths_from_lmdb(
        [str(tmp_path / "data/LQ_X2.lmdb"), str(tmp_path / "data/GT.lmdb")], ["lq", "gt"]
    )
    assert {path["gt_path"] for path in paths} == set(gt)


def test_broken_files_are_named_and_skipped(prepare, photographs, tmp_path):
    (tmp_path / "hr" / "broken.png").write_bytes(b"nonsense")
    whole = (tmp_path / "hr" / "coffee.png").read_bytes()
    (tmp_path / "hr" / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (9, 2)).save(tmp_path / "hr" / "tiny.png")
    process = prepare("--gt", "hr", "--out", "data", "--scale", 4)
    assert process.returncode == 0, process.stderr
    assert "3 broken images skipped:" in process.stdout
    for line in ("broken.png: no image, or a broken one", "half.png: ", "tiny.png: 2×9 pixels, too small for ×4"):
        assert line in process.stdout
    assert len({key.rsplit("_", 1)[0] for key in read(tmp_path / "data/GT.lmdb")}) == 4
    shutil.rmtree(tmp_path / "data")
    for broken in ("broken.png", "half.png"):  # seen before and while reading
        process = prepare("--gt", "hr", "--out", "data", "--scale", 4, "--strict")
        assert failed(process, "Expected only whole images (--strict), but got", broken, "leave out --strict")
        for name in ("broken.png", "tiny.png"):
            (tmp_path / "hr" / name).unlink(missing_ok=True)
    for content in (b"nonsense", whole[:-5000]):  # and nothing but broken ones
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / "a.png").write_bytes(content)
        assert failed(prepare("--gt", "broken", "--out", "data", "--scale", 4), "can be used: broken/a.png")
    assert not (tmp_path / "data").exists()


def test_wrong_folders(prepare, photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for words, message in {
        "--gt empty --out data": "in empty, but got nothing",
        "--gt none --out data": "Expected a folder of images, but got none",
        "--gt hr --lq empty --out data": "in empty, but got nothing",
        "--gt hr --out file": "Expected to write file, but got ",
    }.items():
        assert failed(prepare(*words.split(), "--scale", 4), message)
    assert not (tmp_path / "data").exists()


def test_lr_that_does_not_match(prepare, photographs, tmp_path):
    (tmp_path / "lr").mkdir()
    for name, image in photographs.items():
        Image.fromarray(downscale(image, 3 if name == "coffee" else 4)).save(tmp_path / "lr" / f"{name}.png")
    args = ("--gt", "hr", "--lq", "lr", "--out", "data", "--scale", 4)
    assert failed(prepare(*args), "HR images 4 times as large", "coffee.png (400, 600) with lr/coffee.png (134, 200)")
    (tmp_path / "lr" / "coffee.png").rename(tmp_path / "lr" / "tea.png")
    assert failed(prepare(*args), "but got none for coffee.png", "tea.png", "Without --lq, LR images are made")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--scale", "0"], "Expected --scale to be at least 1, but got 0"),
        (["--scale", "4", "--crop-size", "-1"], "Expected --crop-size to be at least 0, but got -1"),
        (["--scale", "4", "--step", "2"], "Expected --crop-size and --step to be at least the scale 4"),
        (["--scale", "4", "--thresh-size", "-2"], "Expected --thresh-size to be at least 0, but got -2"),
        (["--scale", "4", "--compression", "11"], "Expected --compression to be from 0 to 9, but got 11"),
        (["--scale", "4", "--hold-out", "-1"], "Expected --hold-out to be at least 0, but got -1"),
        (["--scale", "4", "--workers", "0"], "Expected --workers to be at least 1, but got 0"),
        ([], "the following arguments are required: --scale (or --verify DIR)"),
        (["--scale", "4", "--color", "y"], "invalid choice: 'y'"),
    ],
)
def test_bad_arguments(prepare, args, message, tmp_path):
    process = prepare("--gt", "hr", "--out", "data", *args)
    assert process.returncode in (1, 2)
    assert message in process.stderr
    assert os.listdir(tmp_path) == []


def test_overwrites_with_force_only(prepare, photographs, tmp_path):
    args = ("--gt", "hr", "--out", "data", "--scale", 4)
    assert prepare(*args).returncode == 0
    before = (tmp_path / "data/GT.lmdb/data.mdb").stat()
    assert failed(prepare(*args), "data/GT.lmdb and data/LQ_X4.lmdb, which exist", "Pass --force")
    assert (tmp_path / "data/GT.lmdb/data.mdb").stat() == before
    (tmp_path / "hr" / "coffee.png").unlink()
    assert prepare(*args, "--force").returncode == 0
    assert "coffee_s001" not in LmdbReader(tmp_path / "data/GT.lmdb").keys
    assert sorted(os.listdir(tmp_path / "data")) == ["GT.lmdb", "LQ_X4.lmdb"]


def test_room_is_known_beforehand(prepare, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 2**20))
    process = prepare("--gt", "hr", "--out", "data", "--scale", "4")
    assert failed(process, "data: Expected 0.0 GiB of free disk for the pixels, but got 0.0 GiB", "--format png")
    assert not (tmp_path / "data").exists()


def hold_out_options(phase, **more):
    return {
        "name": "mine", "phase": phase, "scale": 4, "io_backend": {"type": "disk"}, "dataroot_gt": "data/GT_val",
        "dataroot_lq": "data/LQ_X4_val", **more,
    }  # fmt: skip


def test_held_out_images_validate_and_are_not_trained_on(prepare, photographs, tmp_path):
    """Whole, in a form that both datasets read; not even a copy is trained on."""
    for name in photographs:
        shutil.copy(tmp_path / f"hr/{name}.png", tmp_path / f"hr/other_{name}.png")
    args = ("--gt", "hr", "--out", "data", "--scale", 4, "--crop-size", 240)
    process = prepare(*args, "--hold-out", 2)
    assert process.returncode == 0, process.stderr
    assert sorted(os.listdir(tmp_path / "data")) == ["GT.lmdb", "GT_val", "LQ_X4.lmdb", "LQ_X4_val"]
    held = {file.stem.removeprefix("other_"): file.stem for file in (tmp_path / "data/GT_val").iterdir()}
    assert len(held) == 2
    trained = {key[: key.rindex("_s")].removeprefix("other_") for key in LmdbReader(tmp_path / "data/GT.lmdb").keys}
    assert trained == photographs.keys() - held
    assert "4 images -> " in process.stdout
    assert "  data/GT_val and LQ_X4_val  2 images held out, whole; nothing above is cut from them" in process.stdout
    assert "  2 more with the content of a held-out image: left out." in process.stdout
    assert process.stdout.splitlines()[-1].startswith("Next: dscsr train -opt FILE, a copy of options/")

    image_dataset = pytest.importorskip("basicsr.data.paired_image_dataset").PairedImageDataset
    theirs = image_dataset(hold_out_options("val"))
    ours = PairedCropDataset(hold_out_options("val"))
    for index, (name, stem) in enumerate(sorted(held.items(), key=lambda item: item[1])):
        height, width = (side // 4 * 4 for side in photographs[name].shape[:2])
        image = photographs[name][:height, :width]
        for sample in (theirs[index], ours[index]):
            assert Path(sample["gt_path"]).stem == stem
            np.testing.assert_array_equal((sample["gt"] * 255).round().numpy().transpose(1, 2, 0), image)
            np.testing.assert_array_equal((sample["lq"] * 255).round().numpy().transpose(1, 2, 0), downscale(image, 4))

    verified = prepare("--verify", "data")
    assert verified.returncode == 0
    assert "GT_val with LQ_X4_val: 2 pairs x4" in verified.stdout
    name = next(iter(trained))
    for folder, image in (("GT_val", photographs[name]), ("LQ_X4_val", downscale(photographs[name], 4))):
        Image.fromarray(image).save(tmp_path / f"data/{folder}/{name}.png")
    assert f"data/GT.lmdb: held out, but also to be trained on: 1, {name}.png" in prepare("--verify", "data").stdout


def test_held_out_images_never_come_back_to_be_trained_on(prepare, photographs, tmp_path):
    args = ("--out", "data", "--scale", 4)
    assert failed(prepare("--gt", "hr", *args, "--hold-out", 4), "left for training, but got --hold-out 4 of 4")
    assert failed(prepare("--gt", ".", *args, "--hold-out", 1), "Expected --out outside of .,")
    assert not (tmp_path / "data").exists()
    assert prepare("--gt", "hr", *args, "--hold-out", 1).returncode == 0
    assert failed(prepare("--gt", "hr", *args, "--force"), "Expected --hold-out, since data/GT_val validates")
    assert prepare("--gt", "hr", *args, "--hold-out", 3, "--force").returncode == 0
    assert len(os.listdir(tmp_path / "data/LQ_X4_val")) == 3


def start(tmp_path, *args):
    # A suite in the background of a shell script is deaf to Ctrl-C, and would hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = [sys.executable, "-m", "dscsr_model.cli", "prepare", *map(str, args)]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_data(tmp_path, size):
    """Until so many bytes are written under the temporary name."""
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size > size for file in tmp_path.glob("data/.GT.lmdb.tmp/building/*/data.mdb")):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def many(photographs, tmp_path):
    """Enough work to be interrupted."""
    for number in range(40):
        os.link(tmp_path / "hr" / "astronaut.png", tmp_path / "hr" / f"a{number}.png")
    return ("--gt", "hr", "--out", "data", "--scale", 4, "--crop-size", 240, "--step", 60, "--workers", 1)


def test_killed_and_two_at_once(prepare, many, tmp_path):
    process = start(tmp_path, *many)
    wait_for_data(tmp_path, 4 * 2**20)
    assert failed(prepare(*many), "Expected no other process in data, but got one that is writing GT")
    process.kill()
    process.communicate()
    assert os.listdir(tmp_path / "data") == [".GT.lmdb.tmp"]
    assert failed(prepare("--verify", "data"), "Expected LMDBs")
    assert prepare("--gt", "hr", "--out", "data", "--scale", 4).returncode == 0
    assert sorted(os.listdir(tmp_path / "data")) == ["GT.lmdb", "LQ_X4.lmdb"]
    assert prepare("--verify", "data").returncode == 0


def test_interrupted_at_the_keyboard(prepare, many, tmp_path):
    assert prepare("--gt", "hr", "--out", "data", "--scale", 4).returncode == 0
    before = read_meta(tmp_path / "data/GT.lmdb")
    process = start(tmp_path, *many, "--force")
    wait_for_data(tmp_path, 2**20)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert sorted(os.listdir(tmp_path / "data")) == ["GT.lmdb", "LQ_X4.lmdb"]
    assert read_meta(tmp_path / "data/GT.lmdb") == before


def test_verify_reports_and_fails(prepare, photographs, tmp_path):
    process = prepare("--gt", "hr", "--out", "data", "--scale", 4)
    small = "3 images smaller than the crop of 480 pixels, kept whole along the short side. The shortest is 300 pixels"
    assert small in process.stdout
    assert read_meta(tmp_path / "data/GT.lmdb")["chelsea_s001"] == ((300, 448, 3), 0)
    meta = tmp_path / "data/LQ_X4.lmdb/meta_info.txt"
    meta.write_text(meta.read_text().replace("chelsea", "dog"))
    process = prepare("--verify", "data")
    assert process.returncode == 1
    assert "3 faults:" in process.stdout
    assert "data/LQ_X4.lmdb: listed in meta_info.txt, but not in data.mdb: 1, dog_s001" in process.stdout
    assert failed(prepare("--verify", "hr"), "Expected LMDBs (folders named *.lmdb) in hr, but got none")


def test_runs_without_basicsr_and_torch(photographs, tmp_path):
    script = (
        "import sys\n"
        "from dscsr_model.cli import main\n"
        "if __name__ == '__main__':\n"
        "    code = main(['prepare', '--gt', 'hr', '--out', 'data', '--scale', '4'])\n"
        "    print(code, *sorted({'basicsr', 'torch', 'scipy'} & set(sys.modules)))\n"
    )
    (tmp_path / "script.py").write_text(script)
    process = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "0"


def test_gray_images_have_one_channel(prepare, photographs, tmp_path):
    """When all are gray, or when asked for; and 16 bits are said to become 8."""
    for name, image in photographs.items():
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        deep = name == "coffee"
        cv2.imwrite(str(tmp_path / "hr" / f"{name}.png"), gray.astype(np.uint16) * 257 if deep else gray)
        photographs[name] = gray[:, :, None]
    args = ("--gt", "hr", "--out", "data", "--scale", 4, "--crop-size", 0)
    process = prepare(*args)
    assert ", whole, gray raw, in" in process.stdout
    assert "  1 file of 16 bits: kept as 8, rounded." in process.stdout
    gt, lq = read(tmp_path / "data/GT.lmdb"), read(tmp_path / "data/LQ_X4.lmdb")
    for name, image in photographs.items():
        image = image[: image.shape[0] // 4 * 4, : image.shape[1] // 4 * 4]
        np.testing.assert_array_equal(gt[name], image)
        np.testing.assert_array_equal(lq[name], downscale(image, 4))
    assert (tmp_path / "data/GT.lmdb/meta_info.txt").read_text().splitlines()[0] == "astronaut.png (512,512,1) 0"
    assert prepare("--verify", "data").returncode == 0

    cv2.imwrite(str(tmp_path / "hr" / "chelsea.png"), np.full((40, 40, 3), (200, 100, 10), np.uint8))
    mixed = prepare(*args, "--force")
    assert "  3 files in gray: kept as RGB; see --color gray." in mixed.stdout
    asked = prepare(*args, "--force", "--color", "gray", "--format", "png")
    assert "  1 file in colours: kept as gray; see --color rgb." in asked.stdout
    assert (read(tmp_path / "data/GT.lmdb")["chelsea"] == 84).all()  # 0.299·10 + 0.587·100 + 0.114·200


def claiming(side):
    """A PNG of a few bytes that claims to be a square of so many pixels a side."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_bombs_links_and_what_is_no_image(prepare, photographs, tmp_path):
    """A link to a folder is followed; what only claims its size is not decoded; what is left out is counted."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "hr/coffee.png").rename(tmp_path / "elsewhere/coffee.png")
    (tmp_path / "hr/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "hr")
    for name in ("a.gif", "b.GIF", "c.avif", "notes.txt"):
        (tmp_path / "hr" / name).touch()
    for side in (200_000, 2**31 - 1):
        (tmp_path / "hr" / f"bomb{side}.png").write_bytes(claiming(side))
    process = prepare("--gt", "hr", "--out", "data", "--scale", 1, "--crop-size", 0)
    assert process.returncode == 0, process.stderr
    assert set(read_meta(tmp_path / "data/GT.lmdb")) == {"astronaut", "chelsea", "rocket", "link_coffee"}
    assert "  left out: 2 .gif, 1 .avif, 1 .txt (only .png, " in process.stdout
    assert "  2 broken images skipped:" in process.stdout
    assert "hr/bomb200000.png: no image, or a broken one (" in process.stdout
    assert "warning: --scale 1 without --lq or --degrade makes pairs of equal images." in process.stderr
