"""Stages that work at the same time; faults of one image and of the program; bounded memory."""

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from dscsr_arch.errors import DscsrError
from dscsr_model.data.image_io import Header
from dscsr_model.inference import pipeline
from dscsr_model.inference.jobs import Job
from dscsr_model.inference.pipeline import memory_needed, run
from dscsr_model.inference.receptive_field import ReceptiveField
from dscsr_model.inference.tiles import Upscaler

WAIT = 20  # seconds, where a fault would wait for ever


class Bar:
    """As tqdm's."""

    def __init__(self):
        self.n, self.faults, self.notes = 0, {}, []

    def update(self, count):
        self.n += count

    def write(self, text, file):
        if text.startswith("failed: "):
            self.faults[Path(text[8:].partition(": ")[0]).name] = text
        else:
            self.notes.append(text)


class Engine:
    scale, channels, device, one_size = 2, 3, torch.device("cpu"), False
    receptive_field = ReceptiveField(0, True, 1.0)

    def __call__(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=2)


def upscaler(engine=None, tile=None):
    return Upscaler(engine or Engine(), tile)


@pytest.fixture
def make_jobs(tmp_path):
    def make(count, form="png"):
        for index in range(count):
            Image.new("RGB", (6 + index, 5), (index, 1, 2)).save(tmp_path / f"{index}.png")
        return [Job(tmp_path / f"{index}.png", tmp_path / "out" / f"{index}_x2.{form}", form) for index in range(count)]

    return make


def test_reading_network_and_writing_overlap(make_jobs, monkeypatch):
    """Reading 2, the network on 1 and writing 0 each go on only when the other two have begun."""
    meeting, met = threading.Barrier(3, timeout=WAIT), []

    def meet(who):
        meeting.wait()
        met.append(who)

    read, save, enlarge = pipeline.read_image, pipeline.write_image, upscaler()

    def reading(source):
        if Path(source).name == "2.png":
            meet("reading 2")
        return read(source)

    def saving(target, *rest, **options):
        if target.name == "0_x2.png":
            meet("writing 0")
        save(target, *rest, **options)

    class Meeting(Engine):
        def __call__(self, x):
            if x.shape[-1] == 7:
                meet("network on 1")
            return super().__call__(x)

    monkeypatch.setattr(pipeline, "read_image", reading)
    monkeypatch.setattr(pipeline, "write_image", saving)
    enlarge.engine = Meeting()
    outcome = run(make_jobs(4), enlarge, Bar())
    assert sorted(met) == ["network on 1", "reading 2", "writing 0"]
    assert outcome.made == 4


def test_broken_images_do_not_stop_the_others(make_jobs, tmp_path, monkeypatch):
    jobs, bar = make_jobs(6), Bar()
    jobs[1].source.write_bytes(b"no image")
    content = jobs[2].source.read_bytes()
    jobs[2].source.write_bytes(content[: len(content) - 30])
    jobs[3] = jobs[3]._replace(target=tmp_path / "0.png" / "below a file.png")

    class Failing(Engine):
        def __call__(self, x):
            if x.shape[-1] == 10:
                raise DscsrError("cannot")
            return super().__call__(x)

    outcome = run(jobs, upscaler(Failing()), bar)
    assert (outcome.made, outcome.failed) == (2, 4)
    assert bar.faults.keys() == {"1.png", "2.png", "3.png", "4.png"}
    assert "no image, or a broken one" in bar.faults["1.png"]
    assert "2.png" in bar.faults["2.png"]
    assert "Expected to write" in bar.faults["3.png"]
    assert bar.faults["4.png"].endswith("4.png: cannot")
    assert bar.n == sum((6 + index) * 5 for index in (0, 2, 3, 4, 5)), "the bar comes to its end"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0_x2.png", "5_x2.png"]


@pytest.mark.parametrize(
    ("form", "size", "fault"),
    [
        ("webp", (20_000, 5), "10x40000"),
        ("png", (10**6, 10**6), r"GiB of free memory for 1000000x1000000 pixels times 2"),
    ],
)
def test_what_cannot_be_is_told_before_the_work(make_jobs, monkeypatch, form, size, fault):
    jobs, bar = make_jobs(1, form), Bar()
    monkeypatch.setattr(pipeline, "read_header", lambda _: Header(*size, False, False))
    monkeypatch.setattr(pipeline, "read_image", lambda _: pytest.fail("it was read"))
    assert run(jobs, upscaler(), bar).failed == 1
    assert fault in bar.faults["0.png"]


@pytest.mark.parametrize("stage", ["read", "network", "write"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_no_images_fault_ends_all(make_jobs, tmp_path, monkeypatch, stage, error):
    count = []

    def fail(*_, **__):
        count.append(1)
        raise error("bug")

    if stage == "read":
        monkeypatch.setattr(pipeline, "read_image", fail)
    elif stage == "write":
        monkeypatch.setattr(pipeline, "write_image", fail)
    enlarge = upscaler()
    if stage == "network":
        enlarge.engine = type("Failing", (Engine,), {"__call__": fail})()
    before = set(threading.enumerate())
    with pytest.raises(error, match="bug"):
        run(make_jobs(12), enlarge, Bar())
    assert len(count) <= pipeline.WRITERS
    assert not (tmp_path / "out").exists()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_memory_is_waited_for(make_jobs, monkeypatch):
    """With room for one image, the next is not read before the last is written."""
    events = []
    read, save = pipeline.read_image, pipeline.write_image
    weight = memory_needed(Header(5, 6, False, False), 2, "png")

    def reading(source):
        events.append("read")
        return read(source)

    def saving(*args, **options):
        save(*args, **options)
        events.append("written")

    monkeypatch.setattr(pipeline, "read_image", reading)
    monkeypatch.setattr(pipeline, "write_image", saving)
    monkeypatch.setattr(pipeline, "check_memory", lambda *_: None)
    monkeypatch.setattr(pipeline, "free_ram", lambda: int(1.5 * weight / pipeline._SHARE))
    run(make_jobs(4), upscaler(), Bar())
    assert events == ["read", "written"] * 4


def test_notes(make_jobs):
    jobs, bar = make_jobs(2), Bar()
    pages = [Image.new("RGB", (9, 9)) for _ in range(3)]
    pages[0].save(jobs[1].source.with_suffix(".tiff"), save_all=True, append_images=pages[1:])
    jobs[1] = jobs[1]._replace(source=jobs[1].source.with_suffix(".tiff"))

    class Attending(Engine):
        receptive_field = ReceptiveField(2, False, 1.0)

    run(jobs, upscaler(Attending(), tile=3), bar)
    assert len(bar.notes) == 2
    assert sum("this network looks at the whole image" in note and "--tile 0" in note for note in bar.notes) == 1
    assert sum("1.tiff: the first of 3 images in this file is taken" in note for note in bar.notes) == 1
    bar.notes.clear()
    run(jobs[:1], upscaler(Attending(), tile=0), bar, replace=True)
    assert bar.notes == []
