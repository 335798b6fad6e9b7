import pickle
import random
import shutil
import struct
import zlib
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import cv2
import numpy as np
import option_files
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dscsr_arch.errors import DataError, DscsrError
from dscsr_model.data import paired_crop_dataset, sources
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.crops import Crop
from dscsr_model.data.keyed_samples import KeyedSampler, SampleKey
from dscsr_model.data.noise import drawn_by
from dscsr_model.data.paired_crop_dataset import PairedCropDataset
from dscsr_model.data.sources import FileSource
from dscsr_model.training.images import as_float, turned


@pytest.fixture
def folders(make_pair, photographs, tmp_path):
    """The same pairs as make_pair's, as folders of PNG files."""
    options = make_pair()
    for root, factor in (("GT", 1), ("LQ", 4)):
        (tmp_path / root).mkdir()
        for number, image in enumerate(photographs):
            image = image[: image.shape[0] // 12 * 12, : image.shape[1] // 12 * 12]
            image = image if factor == 1 else downscale(image, factor)
            Image.fromarray(image).save(tmp_path / root / f"photo{number}.png")
    roots = {"dataroot_gt": str(tmp_path / "GT"), "dataroot_lq": str(tmp_path / "LQ")}
    return {**options, **roots, "io_backend": {"type": "disk"}}


def keys_of(dataset, ratio=1):
    """What `dscsr train` makes of BasicSR's sampler."""
    data_sampler = pytest.importorskip("basicsr.data.data_sampler")
    return KeyedSampler(data_sampler.EnlargedSampler(dataset, 1, 0, ratio))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if torch.is_tensor(value):
            assert value.dtype == other[key].dtype
            assert torch.equal(value, other[key]), key
        elif isinstance(value, str):
            assert Path(value).stem == Path(other[key]).stem
        else:
            assert value == other[key]


def test_basicsr_s_dictionary_exactly(make_pair, monkeypatch):
    """The same window in each of the eight orientations, from the same LMDBs."""
    stock = pytest.importorskip("basicsr.data.paired_image_dataset").PairedImageDataset
    options = make_pair("png")
    for path in ("dataroot_gt", "dataroot_lq"):  # BasicSR opens LMDBs for itself, so it gets its own
        shutil.copytree(options[path], options[path] + ".copy.lmdb")
    theirs = stock({**options, **{path: options[path] + ".copy.lmdb" for path in ("dataroot_gt", "dataroot_lq")}})
    theirs.opt["io_backend"] = {"type": "lmdb"}
    for image_format in ("png", "raw"):
        ours = PairedCropDataset(make_pair(image_format, name=f"again_{image_format}"))
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            for bits in np.ndindex(2, 2, 2):
                top, left = 3 + index, 9
                places, coins = iter([top, left]), iter([0.0 if bit else 1.0 for bit in bits])
                with monkeypatch.context() as patch:
                    patch.setattr(random, "randint", lambda *_, places=places: next(places))
                    patch.setattr(random, "random", lambda coins=coins: next(coins))
                    expected = theirs[index]
                    crop = Crop(top, left, *map(bool, bits))
                    patch.setattr(paired_crop_dataset, "draw_crop", lambda *_, crop=crop: crop)
                    sample = ours[index]
                assert list(sample) == list(expected) == ["lq", "gt", "lq_path", "gt_path"]
                assert sample["lq"].shape == (3, 12, 12)
                assert sample["gt"].shape == (3, 48, 48)
                assert_same(sample, expected)
                assert sample["gt_path"] == expected["gt_path"] == f"photo{index}"


def test_validation_is_basicsr_s_too(folders, photographs):
    stock = pytest.importorskip("basicsr.data.paired_image_dataset").PairedImageDataset
    gt = Path(folders["dataroot_gt"]) / "photo3.png"
    Image.fromarray(photographs[3]).save(gt)  # larger than its LQ by a few pixels, as benchmark sets are
    options = {**folders, "phase": "val"}
    ours, theirs = PairedCropDataset(options), stock({**options, "io_backend": {"type": "disk"}})
    by_path = {sample["gt_path"]: sample for sample in (theirs[index] for index in range(5))}
    for index in range(5):
        sample = ours[index]
        assert_same(sample, by_path[sample["gt_path"]])
        assert sample["lq_path"] == by_path[sample["gt_path"]]["lq_path"]
        assert sample["gt"].shape == (3, 4 * sample["lq"].shape[1], 4 * sample["lq"].shape[2])


def test_uint8_is_float32_times_255(make_pair):
    options = make_pair()
    floats, levels = PairedCropDataset(options), PairedCropDataset({**options, "output": "uint8"})
    for index in range(5):
        level, values = levels[SampleKey(index)], floats[SampleKey(index)]
        for name in ("lq", "gt"):
            assert level[name].dtype == torch.uint8
            assert level[name].is_contiguous()
            assert torch.equal(level[name].float() / 255, values[name])


def test_turned_on_the_device_is_turned_on_the_cpu(make_pair):
    options = make_pair()
    options.update(use_hflip=True, use_rot=True)
    here, there = PairedCropDataset(options), PairedCropDataset({**options, "augment": "device"})
    seen = set()
    for key in [SampleKey(index, 0, position) for index in range(5) for position in range(8)]:
        sample = there[key]
        seen.add(sample["orientation"])
        for name in ("lq", "gt"):
            assert torch.equal(turned(sample[name][None], torch.tensor([sample["orientation"]]))[0], here[key][name])
    assert seen == set(range(8))
    assert "orientation" not in here[0]
    assert "orientation" not in PairedCropDataset({**options, "augment": "device", "phase": "val"})[0]


def test_a_stored_teachers_image_is_cropped_and_turned_as_the_pair_is(make_pair, tmp_path):
    """The teacher here repeats each pixel of LQ, a level lower: so its crop is known."""
    options = make_pair()
    options["dataroot_teacher"] = str(option_files.store_teacher(Path(options["dataroot_lq"]), tmp_path, 4))
    here = PairedCropDataset(options)
    raw = PairedCropDataset({**options, "augment": "device", "output": "uint8"})
    in_memory = PairedCropDataset({**options, "cache": "ram"})
    for key in [SampleKey(index, 0, position) for index in range(5) for position in range(8)]:
        sample, levels = here[key], raw[key]
        wanted = sample["lq"].repeat_interleave(4, -1).repeat_interleave(4, -2) - 1 / 255
        torch.testing.assert_close(sample["teacher_image"], wanted, rtol=0, atol=1e-7)
        assert_same(sample, in_memory[key])
        assert levels["teacher_image"].dtype == torch.int16
        turns = torch.tensor([levels["orientation"]])
        assert torch.equal(as_float(turned(levels["teacher_image"][None], turns))[0], sample["teacher_image"])
    assert "teacher_image" not in PairedCropDataset({**options, "phase": "val"})[0]


def test_samples_depend_on_the_seed_and_the_key_alone(make_pair):
    options = make_pair()
    dataset = PairedCropDataset(options)
    first = dataset[SampleKey(2, 5, 1)]
    for _ in range(3):
        dataset[random.randrange(5)]
        torch.rand(1)
    assert_same(first, dataset[SampleKey(2, 5, 1)])
    assert_same(first, PairedCropDataset(options)[SampleKey(2, 5, 1)])
    reseeded = PairedCropDataset({**options, "seed": 8})
    others = [dataset[SampleKey(2, 6, 1)], dataset[SampleKey(2, 5, 0)], reseeded[SampleKey(2, 5, 1)]]
    assert not any(torch.equal(first["gt"], other["gt"]) for other in others)
    dataset.set_epoch(5)
    assert_same(dataset[2], dataset[SampleKey(2, 5, 0)])


def test_bare_indices_are_not_frozen_where_nobody_tells_the_epoch(make_pair):
    """A loop that builds its own loader: two epochs differ in every crop, in workers as well."""
    dataset = PairedCropDataset(make_pair())
    for workers in (0, 1):
        loader = DataLoader(dataset, num_workers=workers)
        one, two = ([batch["gt"] for batch in loader] for _ in range(2))
        assert sum(torch.equal(first, second) for first, second in zip(one, two, strict=True)) <= 1


def test_seed_is_the_run_s(make_pair):
    options = {key: value for key, value in make_pair().items() if key != "seed"}
    torch.manual_seed(11)
    one = PairedCropDataset(options)
    torch.manual_seed(12)
    other = PairedCropDataset(options)
    torch.manual_seed(11)
    again = PairedCropDataset(options)
    assert (one.seed, other.seed, again.seed) == (11, 12, 11)
    assert_same(one[SampleKey(0)], again[SampleKey(0)])
    torch.manual_seed(-1)
    assert PairedCropDataset(options)[0]


def batches_of_two_epochs(options, workers, method, persistent):
    """Train and validate on one LMDB, as BasicSR's loop does it."""
    train = PairedCropDataset(options)
    val = PairedCropDataset({**options, "phase": "val"})
    sampler = keys_of(train, ratio=3)
    how = {"num_workers": workers, "multiprocessing_context": method, "persistent_workers": persistent}
    loader = DataLoader(train, batch_size=4, sampler=sampler, drop_last=True, **how)
    found = list(iter(DataLoader(val)))  # opens the LMDBs before workers are forked
    iter(loader)  # as BasicSR's prefetcher does before the first epoch is set
    for epoch in range(2):
        sampler.sampler.set_epoch(epoch)
        found += [*loader, next(iter(DataLoader(val)))]
    return found


def test_noise_is_the_sample_s_or_in_validation_the_image_s(make_pair, folders):
    clean = {**make_pair(name="more"), "scale": 1}
    clean["dataroot_lq"] = clean["dataroot_gt"]
    options = {**clean, "noise": 25}
    key = SampleKey(2, 5, 1)
    sample = PairedCropDataset(options)[key]
    expected = torch.from_numpy(drawn_by(7, 2, 5, 1).standard_normal((3, 48, 48), np.float32)).double() * 25 / 255
    assert torch.equal(sample["gt"], PairedCropDataset(clean)[key]["gt"])
    torch.testing.assert_close(sample["lq"].double(), sample["gt"].double() + expected, rtol=0, atol=1e-7)
    for more in ({"cache": "ram"}, {"output": "uint8"}):
        dataset = PairedCropDataset({**options, **more})
        assert dataset.gt is dataset.lq or not more.get("cache")
        torch.testing.assert_close(dataset[key]["lq"], sample["lq"], rtol=0, atol=1e-7)
    one, two, *_ = ((batch["lq"] - batch["gt"]) * 255 for batch in DataLoader(PairedCropDataset(options), batch_size=2))
    assert not torch.equal(one, two)

    wide = PairedCropDataset({**options, "noise": [0, 50], "gt_size": 96})
    sigmas = [((s["lq"] - s["gt"]) * 255).std().item() for s in (wide[SampleKey(0, 0, n)] for n in range(60))]
    assert 0 <= min(sigmas) < 10
    assert 40 < max(sigmas) < 51

    val = {**options, "phase": "val", "seed": 1}
    first, again = PairedCropDataset(val)[3]["lq"], PairedCropDataset({**val, "seed": 2})[3]["lq"]
    assert torch.equal(first, again)
    roots = {"dataroot_gt": folders["dataroot_gt"], "dataroot_lq": folders["dataroot_gt"]}
    of_files = PairedCropDataset({**val, **roots, "io_backend": {"type": "disk"}})
    by_name = {Path(each["gt_path"]).stem: each["lq"] for each in map(of_files.__getitem__, range(5))}
    assert torch.equal(by_name["photo3"], first)
    assert min(image.min() for image in by_name.values()) < 0


@pytest.mark.parametrize("noise", [-1, 300, [50, 0], [1], True])
def test_noise_that_is_none(make_pair, noise):
    with pytest.raises(DscsrError, match=r"noise: Expected a number from 0 to 255, or the lowest and the highest"):
        PairedCropDataset({**make_pair(), "noise": noise})


@pytest.mark.parametrize(
    ("workers", "method", "persistent"),
    [
        (2, "fork", False),
        (2, "fork", True),
        pytest.param(1, "spawn", True, marks=pytest.mark.slow),
        pytest.param(2, "forkserver", False, marks=pytest.mark.slow),
    ],
)
def test_workers_of_any_kind_change_nothing(make_pair, workers, method, persistent):
    options = {**make_pair(), "noise": [0, 25]}
    reference = batches_of_two_epochs(options, 0, None, False)
    assert len(reference) == 5 + 2 * (3 + 1)
    assert not torch.equal(reference[5]["gt"], reference[9]["gt"])  # another epoch, other samples
    for one, other in zip(reference, batches_of_two_epochs(options, workers, method, persistent), strict=True):
        assert one["gt_path"] == other["gt_path"]
        assert one["lq_path"] == other["lq_path"]
        assert torch.equal(one["lq"], other["lq"])
        assert torch.equal(one["gt"], other["gt"])


@pytest.mark.parametrize("block", [1, 2**28])
def test_images_in_memory_are_shared_with_workers(make_pair, monkeypatch, block):
    """Also where these are not forked, as from Python 3.14 on: what they are handed holds no pixels."""
    monkeypatch.setattr(sources, "_BLOCK", block)
    options = make_pair()
    stored, kept = PairedCropDataset(options), PairedCropDataset({**options, "cache": "ram"})
    handed = ForkingPickler.dumps(kept)
    assert len(handed) < kept.gt.shapes().prod(1).sum() / 4
    worked_on = pickle.loads(handed)
    for index in range(len(stored)):
        assert torch.equal(worked_on[SampleKey(index)]["gt"], stored[SampleKey(index)]["gt"])


def test_repeat_crops_reads_an_image_once(folders, monkeypatch):
    dataset = PairedCropDataset({**folders, "repeat_crops": 3})
    assert len(dataset) == 5
    read = []
    original = FileSource.pixels
    monkeypatch.setattr(FileSource, "pixels", lambda self, index: read.append(index) or original(self, index))
    samples = dataset.__getitems__([*map(SampleKey, range(5)), SampleKey(0, 0, 1), SampleKey(2, 0, 1)])
    assert read == [0, 0, 3, 3, 2, 2]  # LQ and GT
    assert [Path(sample["gt_path"]).stem for sample in samples] == ["photo0"] * 3 + ["photo3"] * 3 + ["photo2"]
    assert len({sample["gt"].numpy().tobytes() for sample in samples}) == 7
    batch = next(iter(DataLoader(dataset, batch_size=4, sampler=keys_of(dataset))))
    assert batch["lq"].shape == (4, 3, 12, 12)


def test_folder_options(folders, tmp_path):
    """What does not fit is told by the rules that the option check keeps: host/options/test_data."""
    for file in Path(folders["dataroot_lq"]).iterdir():
        file.rename(file.with_name(f"{file.stem}x4.png"))
    assert len(PairedCropDataset({**folders, "filename_tmpl": "{}x4"})) == 5
    (tmp_path / "list.txt").write_text("photo3.png (10,10,3)\nphoto1.png\n")
    listed = PairedCropDataset({**folders, "filename_tmpl": "{}x4", "meta_info_file": str(tmp_path / "list.txt")})
    assert [Path(listed[n]["gt_path"]).name for n in range(2)] == ["photo3.png", "photo1.png"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"gt_size": 50}, r"Expected `gt_size` to be a multiple of the scale 4, but got 50\. Take 48"),
        ({"gt_size": 240}, r"photo\d: Expected images of at least 240 pixels .*, but got \(\d+, \d+\)\. Lower"),
        ({"scale": 2}, r"photo0: Expected the GT to be 2 times as large as its LQ, \(\d+, \d+\), but .* Set `scale`"),
        ({"color": "y"}, r"Expected `color` to be rgb or gray, but got 'y'\. .*`gray` has all from 0 to 255"),
        ({"mean": [0.5]}, r"Expected none of BasicSR's mean, but got \[0\.5\]\. .* leave it out"),
    ],
)
def test_bad_options(make_pair, option, message):
    with pytest.raises(DscsrError, match=message):
        PairedCropDataset({**make_pair(), **option})


def test_broken_and_small_files(folders):
    small = Path(folders["dataroot_gt"]) / "photo2.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(small)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(Path(folders["dataroot_lq"]) / "photo2.png")
    dataset = PairedCropDataset(folders)
    with pytest.raises(DataError, match=r"photo2\.png: Expected images of at least 48 pixels .*, but got \(40, 40\)"):
        dataset[2]
    claiming = bytearray(small.read_bytes())
    claiming[16:24] = struct.pack(">II", 60000, 60000)  # more pixels than OpenCV reads
    claiming[29:33] = struct.pack(">I", zlib.crc32(claiming[12:29]))
    for content in (claiming, b"nonsense"):
        small.write_bytes(content)
        with pytest.raises(DataError, match=r"photo2\.png: Expected an image, but got something that does not decode"):
            dataset[2]
    small.unlink()
    with pytest.raises(DataError, match=r"photo2\.png: Expected an image, but got No such file"):
        dataset[2]


@pytest.mark.parametrize("phase", ["train", "val"])
def test_one_channel_however_it_is_stored(make_pair, folders, phase):
    """Of LMDBs with one channel, and by `color: gray` of colours; LR images differ by rounding."""
    gray = {**make_pair("raw", name="gray", channels=1), "phase": phase}
    forms = [
        gray,
        {**gray, "cache": "ram"},
        {**make_pair("png", name="png", channels=1), "phase": phase},
        {**make_pair(name="colours"), "phase": phase, "color": "gray"},
        {**folders, "phase": phase, "color": "gray"},
    ]
    colours = PairedCropDataset({**forms[3], "color": "rgb"})[SampleKey(2, 5)]
    pixels = colours["gt"].permute(1, 2, 0).mul(255).round().byte().numpy()
    expected = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[None].float() / 255
    for options in forms:
        sample = PairedCropDataset(options)[SampleKey(2, 5)]
        assert torch.equal(sample["gt"], expected)
        assert sample["lq"].shape[0] == 1
        assert (sample["lq"] - colours["lq"].mean(0)).abs().mean() < 0.2
    three = PairedCropDataset({**gray, "color": "rgb"})[SampleKey(2, 5)]
    assert torch.equal(three["gt"], expected.expand(3, -1, -1))
