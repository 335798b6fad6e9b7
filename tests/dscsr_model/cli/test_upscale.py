"""`dscsr upscale` as a user runs it: folders of every kind of image, wrong input, Ctrl-C and kill."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from forks import Fork
from PIL import Image, ImageCms
from small_models import SWINIR

from dscsr_arch import SPAN, load_model
from dscsr_arch.foreign import find_backbone
from dscsr_arch.metadata import beside
from dscsr_model.cli import backend as backend_argument
from dscsr_model.cli import main
from dscsr_model.data.image_io import read_image
from dscsr_model.inference.backends import NAMES

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny SPAN x2, that makes of an image something like it: the last convolution is damped."""
    torch.manual_seed(0)
    network = SPAN(feature_channels=4, upscale=2)
    with torch.no_grad():
        network.upsampler[0].weight *= 0.05
        network.upsampler[0].bias.fill_(0.4)
    file = tmp_path_factory.mktemp("weights") / "span.pth"
    torch.save({"params": network.state_dict(), **beside(network)}, file)
    return file


@pytest.fixture
def upscale(weights, capsys):
    """Run the command in this process; returns exit code, stdout, stderr."""

    def run(source, out, *args, w=weights):
        code = main(["upscale", "-i", str(source), "-o", str(out), "-w", str(w), *map(str, args)])
        return code, *capsys.readouterr()

    return run


def photograph(height=24, width=32):
    y, x = np.mgrid[:height, :width]
    soft = np.stack([128 + 100 * np.sin(x / 5) * np.cos(y / 4), 255 * x / width, 255 * y / height], axis=2)
    return soft.astype(np.uint8)


@pytest.mark.parametrize("backend", NAMES, indirect=True)
def test_a_network_of_x1_restores(upscale, tmp_path, backend):
    """One whose residual is zero leaves an image as it is."""
    network = SPAN(feature_channels=4, upscale=1, residual=True)
    torch.nn.init.zeros_(network.upsampler[0].weight)
    torch.nn.init.zeros_(network.upsampler[0].bias)
    torch.save({"params": network.state_dict(), **beside(network)}, tmp_path / "x1.pth")
    Image.fromarray(photograph()).save(tmp_path / "photo.png")
    code, out, err = upscale(tmp_path / "photo.png", tmp_path / "out", "--backend", backend, w=tmp_path / "x1.pth")
    assert (code, out.split(";")[0]) == (0, f"1 image restored -> {tmp_path / 'out'}"), err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/photo_x1.png")), photograph())


def test_mixed_images(upscale, tmp_path):
    """Depth, channels, profile and EXIF stay; what is broken is named; a second run leaves what is there."""
    root, out = tmp_path / "mixed", tmp_path / "out"
    (root / "a folder").mkdir(parents=True)
    rgb = photograph()
    image, deep = Image.fromarray(rgb), rgb.astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "a maker"
    image.save(root / "photo.jpg", exif=turned, icc_profile=SRGB)
    image.convert("L").save(root / "gray.png")
    image.convert("L").save(root / "gray.jpg")
    Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(root / "ünï cödé.png", icc_profile=SRGB)
    cv2.imwrite(str(root / "a folder" / "deep.tiff"), deep[..., ::-1])
    (root / "a folder" / "broken.jpg").write_bytes((root / "photo.jpg").read_bytes()[:-60])
    (root / "notes.txt").write_text("notes")
    wanted = {  # mode of Pillow, size, profile, EXIF
        "photo": ("RGB", (48, 64), SRGB, "a maker"),
        "gray_png": ("L", (64, 48), b"", None),
        "gray_jpg": ("L", (64, 48), b"", None),
        "ünï cödé": ("RGBA", (64, 48), SRGB, None),
        "a folder/deep": ("RGB", (64, 48), b"", None),
    }
    code, stdout, stderr = upscale(root, out)
    assert code == 1
    assert "5 images x2 -> " in stdout
    assert "1 failed (named above)" in stdout
    assert "gray_png_x2" in stdout
    assert "left out: 1 .txt" in stdout
    (failed,) = [line for line in stderr.splitlines() if line.startswith("failed: ")]
    assert "broken.jpg: " in failed
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == {f"{name}_x2.png" for name in wanted}
    for name, expected in wanted.items():
        with Image.open(out / f"{name}_x2.png") as made:
            exif, icc = made.getexif(), made.info.get("icc_profile", b"")
            assert (made.mode, made.size, icc, exif.get(0x010F)) == expected, name
            assert exif.get(0x0112, 1) == 1, name
    assert read_image(out / "a folder" / "deep_x2.png").pixels.dtype == np.uint16

    (out / ".photo_x2.png.tmp").mkdir()  # left by a kill
    code, stdout, _ = upscale(root, out)
    assert code == 1
    assert "5 results there already, left as found; --force makes them anew" in stdout
    assert not (out / ".photo_x2.png.tmp").exists()


def test_pixels_are_the_networks(upscale, weights, tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    code, stdout, _ = upscale(tmp_path / "a.png", tmp_path / "out")
    assert code == 0
    assert stdout.startswith(f"1 image x2 -> {tmp_path / 'out'}; 768 pixels in ")
    x = torch.from_numpy(photograph()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        wanted = (load_model(weights)(x).clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
    assert wanted.std() > 5
    assert np.abs(np.asarray(Image.open(tmp_path / "out" / "a_x2.png")) - wanted).max() < 0.51


@pytest.mark.parametrize(
    "args",
    [("--tile", 9), ("--tile", 0), ("--precision", "bf16"), ("--backend", "torch")],
    ids=lambda args: " ".join(map(str, args)),
)
def test_options_give_the_same_image(upscale, tmp_path, args):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    upscale(tmp_path / "a.png", tmp_path / "plain")
    code, _, _ = upscale(tmp_path / "a.png", tmp_path / "out", *args)
    assert code == 0
    plain, got = (np.asarray(Image.open(tmp_path / name / "a_x2.png")).astype(int) for name in ("plain", "out"))
    assert np.abs(plain - got).max() <= {"--tile": 1, "--precision": 4, "--backend": 0}[args[0]]


def test_self_ensemble(upscale, tmp_path):
    """All orientations count alike: a turned image gives the turned result."""
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    Image.fromarray(np.rot90(photograph())).save(tmp_path / "b.png")
    results = []
    for name in "ab":
        assert upscale(tmp_path / f"{name}.png", tmp_path / "out", "--self-ensemble")[0] == 0
        results.append(read_image(tmp_path / "out" / f"{name}_x2.png").pixels.astype(int))
    assert np.abs(np.rot90(results[0]) - results[1]).max() <= 1


def test_onnx(upscale, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="extra: onnx")

    def written(form, network, file, half):
        write(form, network, file, half)
        shutil.copy(file, tmp_path / "net.onnx")  # exporting takes seconds: once is enough

    write = backend_argument.write
    monkeypatch.setattr(backend_argument, "write", written)
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    upscale(tmp_path / "a.png", tmp_path / "plain")
    assert upscale(tmp_path / "a.png", tmp_path / "out2", "--backend", "onnx")[0] == 0
    assert upscale(tmp_path / "a.png", tmp_path / "out", "--tile", 20, w=tmp_path / "net.onnx")[0] == 0
    plain, *others = (read_image(tmp_path / name / "a_x2.png").pixels.astype(int) for name in ("plain", "out", "out2"))
    for other in others:
        assert np.abs(plain - other).max() <= 1


def test_a_backend_that_would_make_another_image(upscale, tmp_path, monkeypatch):
    """A traced file keeps what a network does for one size of image, HAT's masks for instance."""
    pytest.importorskip("onnxruntime", reason="extra: onnx")
    forward = SPAN.forward
    monkeypatch.setattr(SPAN, "forward", lambda network, x: forward(network, x) / float(x.shape[-1]))
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    code, _, stderr = upscale(tmp_path / "a.png", tmp_path / "out", "--backend", "onnx")
    assert code == 1
    assert "the file, read by ONNX Runtime, to do what the network does" in stderr
    assert not (tmp_path / "out").exists()


def test_the_fastest_backend(upscale, tmp_path, monkeypatch):
    """It is said which one is, and why; the image is the same. One that is installed and broken is told."""
    pytest.importorskip("onnxruntime", reason="extra: onnx")
    (tmp_path / "ncnn.py").write_text("raise ImportError('libgomp.so.1')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ncnn", raising=False)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"no image")
    Image.fromarray(photograph()).save(tmp_path / "in/b.png")
    upscale(tmp_path / "in/b.png", tmp_path / "plain")
    code, _, stderr = upscale(tmp_path / "in", tmp_path / "out", "--backend", "auto")
    assert code == 1, "a.png is none"
    assert re.search(r"--backend \w+: the fastest here \(.*PyTorch [\d.]+ ms.*, for 32x24 pixels\)", stderr), stderr
    assert "ncnn was no candidate: Expected ncnn, but got one whose import fails: libgomp.so.1." in stderr
    plain, fastest = (read_image(tmp_path / name / "b_x2.png").pixels.astype(int) for name in ("plain", "out"))
    assert np.abs(plain - fastest).max() <= 1


def test_the_fastest_backend_of_a_file_that_nothing_here_opens(upscale, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    code, _, stderr = upscale(tmp_path, tmp_path / "out", "--backend", "auto", w=tmp_path / "net.param")
    assert code == 1
    assert re.search(r"Expected ncnn, but got no ncnn.*Run `pip install 'dscsr\[ncnn\]'`", stderr), stderr


def test_the_fastest_backend_of_a_file_that_is_broken(upscale, tmp_path):
    pytest.importorskip("onnxruntime", reason="extra: onnx")
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    (tmp_path / "text.onnx").write_text("text")
    for name, message in ("none", "an ONNX file, but got none"), ("text", "a whole ONNX file, but got one"):
        code, _, stderr = upscale(tmp_path, tmp_path / "out", "--backend", "auto", w=tmp_path / f"{name}.onnx")
        assert code == 1
        expected = rf"a backend that runs this network, but got none: onnx: \S+{name}\.onnx: Expected {message}"
        assert re.search(expected, stderr), stderr


def test_networks_that_spandrel_knows(upscale, tmp_path):
    """SwinIR is found by its weights, and its windows lie in tiles as in the whole image."""
    pytest.importorskip("spandrel", reason="extra: spandrel")
    swinir = {name: value for name, value in SWINIR.items() if name != "type"}
    torch.save({"params": find_backbone("SwinIR")(**swinir).state_dict()}, tmp_path / "swinir.pth")
    Image.fromarray(photograph(70, 61)).save(tmp_path / "a.png")
    for tile in (0, 24):
        assert upscale(tmp_path / "a.png", tmp_path / str(tile), "--tile", tile, w=tmp_path / "swinir.pth")[0] == 0
    whole, tiled = (next((tmp_path / tile).iterdir()) for tile in ("0", "24"))
    assert np.abs(read_image(whole).pixels.astype(int) - read_image(tiled).pixels).max() <= 1


def test_formats(upscale, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png", "c.webp", "d.tif", "e.bmp"):
        Image.fromarray(photograph()).save(tmp_path / "in" / name)
    Image.fromarray(np.dstack([photograph(), photograph()[..., 0]])).save(tmp_path / "in" / "alpha.png")
    code, _, _ = upscale(tmp_path / "in", tmp_path / "same", "--format", "same")
    assert code == 0
    same = ["a_x2.jpg", "alpha_x2.png", "b_x2.png", "c_x2.webp", "d_x2.tiff", "e_x2.png"]
    assert sorted(os.listdir(tmp_path / "same")) == same
    code, _, stderr = upscale(tmp_path / "in", tmp_path / "jpg", "--format", "jpg")
    assert code == 1
    assert (
        "alpha.png: Expected an opaque image, for JPEG, but got transparency. Use --format png, webp or tiff." in stderr
    )
    assert sorted(os.listdir(tmp_path / "jpg")) == [f"{name}_x2.jpg" for name in "abcde"]


def test_what_is_told_beside_the_result(upscale, tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    slow = ("--precision", "fp16", "--device", "cpu", "--tile", 8, "--tile-overlap", 4)
    code, _, stderr = upscale(tmp_path / "a.png", tmp_path / "out", *slow)
    assert code == 0
    assert "--tile-overlap 4 is less than the 21 pixels that this network sees: seams may show" in stderr
    assert "fp16 is much slower than fp32 on a CPU: --precision bf16" in stderr


def failed(result, *parts):
    code, _, stderr = result
    assert code == 1
    assert stderr.startswith("dscsr: error: Expected ")
    assert "Traceback" not in stderr
    for part in parts:
        assert part in stderr
    return True


def test_wrong_arguments(upscale, tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    source, out = tmp_path / "a.png", tmp_path / "out"
    assert failed(upscale(source, out, "--quality", 0), "--quality from 1 to 100, but got 0")
    assert failed(upscale(source, out, "--tile", -1), "--tile from 0 (no tiles), but got -1")
    assert failed(upscale(source, out, "--tile-overlap", -1), "--tile-overlap from 0, but got -1")
    assert failed(upscale(source, out, "--device", "gpu"), "a device among auto, cpu, cuda")
    assert failed(upscale(source, out, "--backend", "torch", w="net.onnx"), "for --backend torch, but got net.onnx")
    assert failed(upscale(source, out, "--precision", "fp16", w="net.onnx"), "no --precision, --base, --width")
    assert failed(upscale(source, out, "--set", "norm=false", w="net.onnx"), "--set with an ONNX file")
    assert failed(upscale(source, out, "--backend", "onnx", "--precision", "bf16"), "fp32 or fp16, and no --compile")
    assert failed(
        upscale(source, out, "--backend", "openvino", "--compile"), "--precision fp32 or bf16, and no --compile"
    )
    assert failed(upscale(source, out, "--backend", "auto", "--precision", "bf16"), "no --compile, with --backend auto")
    assert failed(upscale(source, out, w=tmp_path / "none.pth"), "Expected a weight file at")
    assert failed(upscale(source, out, w=source), "truncated or of another kind")
    assert failed(upscale(tmp_path / "none", out), "none: No such file or directory. Correct the path")
    assert failed(upscale(source, tmp_path / "new.png"), "Expected a folder as -o")
    assert not out.exists()


def test_without_basicsr(upscale, tmp_path, monkeypatch):
    for name in ["basicsr", *(name for name in sys.modules if name.startswith("basicsr."))]:
        monkeypatch.setitem(sys.modules, name, None)
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    code, _, stderr = upscale(tmp_path / "a.png", tmp_path / "out")
    assert code == 0
    assert "upscaling: 100%" in stderr
    assert read_image(tmp_path / "out" / "a_x2.png").pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_stopped(weights, tmp_path, how):
    """Nothing half-made has a final name; the next run goes on."""
    (tmp_path / "in").mkdir()
    for index in range(300):
        Image.fromarray(photograph(40, 60)).save(tmp_path / "in" / f"{index:03d}.png")
    arguments = ["upscale", "-i", "in", "-o", "out", "-w", str(weights)]
    with tempfile.TemporaryFile("w+") as said:
        child = Fork(lambda: main(arguments), tmp_path, {}, said.fileno(), said.fileno())
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list((tmp_path / "out").glob("*.png"))) < 3:
            time.sleep(0.005)
        child.kill(how)
        code = child.wait()
        said.seek(0)
        last = said.read().rstrip()
    made = sorted((tmp_path / "out").glob("[!.]*"))
    assert 3 <= len(made) < 300
    assert all(read_image(path).pixels.shape == (80, 120, 3) for path in made)
    if how == signal.SIGINT:
        assert code == 130
        assert last.endswith("dscsr: interrupted")
        assert len(os.listdir(tmp_path / "out")) == len(made), "nothing half-made is left, hidden or not"
    for path in Path(tmp_path / "in").iterdir():
        if path.stem > "020" and not list(
            (tmp_path / "out").glob(f"*{path.stem}_x2.png*")
        ):  # what a kill left is hidden
            path.unlink()
    before = {path: path.stat().st_mtime_ns for path in made}
    assert main(["upscale", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-w", str(weights)]) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert len(list((tmp_path / "out").glob("[!.]*"))) == len(os.listdir(tmp_path / "in"))


@pytest.mark.slow
def test_forty_megapixels_in_bounded_memory(tmp_path):
    """x4 of 40 million gray pixels: the result alone is 640 MB, and float32 of it would be 2.6 GB."""
    torch.save({"params": SPAN(1, 1, 4, 4, norm=False).state_dict()}, tmp_path / "gray.pth")
    tile = photograph(500, 800)[..., 0]
    Image.fromarray(np.tile(tile, (10, 10))).save(tmp_path / "large.png")
    code = """
import resource, sys
from dscsr_model.cli import backend as backend_argument
from dscsr_model.cli import main
assert main(["upscale", "-i", "large.png", "-o", "out", "-w", "gray.pth", "--set", "norm=false"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    peak = int(process.stderr.split()[-1])
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(tmp_path / "out" / "large_x4.png") as image:
        assert image.size == (32000, 20000)
    assert 640 < peak < 1800, f"{peak} MB"
