"""Images read, enlarged and written at the same time, in bounded memory; a broken one does not stop the others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

from dscsr_arch.errors import DscsrError
from dscsr_model.data.image_io import DecodedImage, Header, decoding_memory, read_header, read_image
from dscsr_model.data.image_writing import check_size, without_lost_alpha, write_image
from dscsr_model.data.memory import check_memory, free_ram
from dscsr_model.inference.jobs import Job
from dscsr_model.inference.tiles import Upscaler

Item = TypeVar("Item")
WRITERS = 2
_AHEAD = 2  # images that wait between two stages
_SHARE = 0.5  # of the free memory, for images under way
_SLACK = 64 << 20
_PATIENCE = 5.0  # seconds


class Stopped(Exception):  # noqa: N818 - no fault: what a thread meets when all is to end
    """Work was given up because everything ends."""


class Reporter(Protocol):
    """Told what happens, from several threads."""

    def pixels(self, count: int) -> None:
        """So many pixels of the input are made, or will not be."""

    def failed(self, job: Job, fault: str) -> None:
        """An image could not be made."""

    def note(self, text: str) -> None:
        """Something worth knowing about an image."""


class Outcome(NamedTuple):
    """What became of the images."""

    made: int
    failed: int
    input_pixels: int
    seconds: float


class _Read(NamedTuple):
    job: Job
    image: DecodedImage
    weight: int


class Line:
    """What the stages share: one lock, the memory that is spoken for, and whether all is to end."""

    def __init__(self, limit: int) -> None:
        self.changed = threading.Condition()
        self.stopped = False
        self.fault: BaseException | None = None
        self._limit = limit
        self._used = 0

    def acquire(self, weight: int) -> None:
        """Wait until ``weight`` bytes are free of the limit; one that is larger than all of it goes alone."""
        with self.changed:
            self.wait(lambda: self._used == 0 or self._used + weight <= self._limit)
            self._used += weight

    def release(self, weight: int) -> None:
        """Give back what was acquired."""
        with self.changed:
            self._used -= weight
            self.changed.notify_all()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait, holding the lock, until something is so. Raises `Stopped` if all is to end."""
        self.changed.wait_for(lambda: self.stopped or ready())
        if self.stopped:
            raise Stopped

    def check(self) -> None:
        """Raise `Stopped` if all is to end."""
        if self.stopped:
            raise Stopped

    def stop(self, fault: BaseException | None = None) -> None:
        """Wake everybody up to end; the first fault is kept."""
        with self.changed:
            self.stopped = True
            self.fault = self.fault or fault
            self.changed.notify_all()


class Channel(Generic[Item]):
    """A queue between two stages, of at most ``size`` items; ends when it is closed, or with its line."""

    def __init__(self, line: Line, size: int) -> None:
        self._line = line
        self._size = size
        self._items: deque[Item] = deque()
        self._closed = False

    def put(self, item: Item) -> None:
        """Hand on, when there is room."""
        with self._line.changed:
            self._line.wait(lambda: len(self._items) < self._size)
            self._items.append(item)
            self._line.changed.notify_all()

    def close(self) -> None:
        """No more will come."""
        with self._line.changed:
            self._closed = True
            self._line.changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._line.changed:
                self._line.wait(lambda: bool(self._items) or self._closed)
                if not self._items:
                    return
                self._line.changed.notify_all()
                taken = [self._items.popleft()]
            yield taken.pop()  # kept nowhere: it may be an image of gigabytes, and the next one far away


def run(jobs: Sequence[Job], upscaler: Upscaler, quality: int, report: Reporter, *, replace: bool = False) -> Outcome:
    """Make all images. One is read and others are written while the network works on another.

    Args:
        jobs: What to make of what.
        upscaler: Called in this thread.
        quality: Of JPEG and WebP, 1 to 100.
        report: Told what happens.
        replace: Overwrite results that exist.

    Returns:
        How many succeeded. Those that failed were reported: files that are broken or cannot be written, formats that
        are too small for the result, memory that is missing.

    Raises:
        BaseException: What was no image's fault, Ctrl-C too; then no file appears any more, and none is half-made.
    """
    start = time.monotonic()
    stages = _Stages(upscaler, quality, report, replace)
    with _threads(stages, jobs):
        for item in stages.read:
            stages.enlarge(item)
            del item
        stages.made.close()
    return Outcome(stages.successes, stages.failures, stages.input_pixels, time.monotonic() - start)


class _Stages:
    """The three stages; the queues between them; the counts."""

    def __init__(self, upscaler: Upscaler, quality: int, report: Reporter, replace: bool) -> None:
        self.line = Line(int(free_ram() * _SHARE))
        self.read: Channel[_Read] = Channel(self.line, _AHEAD)
        self.made: Channel[_Read] = Channel(self.line, _AHEAD)
        self.successes = self.failures = self.input_pixels = 0
        self._upscaler, self._quality, self._report, self._replace = upscaler, quality, report, replace
        self._told_of_cuts = upscaler.engine.receptive_field.local

    def read_all(self, jobs: Sequence[Job]) -> None:
        """First stage: files to images, as far ahead as memory allows."""
        for job in jobs:
            with self._faults(job, 0):
                self._read_one(job)  # by itself: nothing here holds the image while the next one is waited for
        self.read.close()

    def _read_one(self, job: Job) -> None:
        header = read_header(job.source)
        scale = self._upscaler.engine.scale
        check_size(header.height * scale, header.width * scale, job.form)
        weight = memory_needed(header, scale, job.form)
        self.line.acquire(weight)
        with self._faults(job, weight, header.height * header.width):
            check_memory(weight, header.height, header.width, scale)
            image = without_lost_alpha(read_image(job.source), job.form)
            if image.frames > 1:
                self._report.note(f"{job.source}: the first of {image.frames} images in this file is taken")
            self.read.put(_Read(job, image, weight))

    def enlarge(self, item: _Read) -> None:
        """Second stage."""
        height, width = item.image.pixels.shape[:2]
        reported = 0
        if not self._told_of_cuts and self._upscaler.side(item.image.pixels.shape) < max(height, width):
            self._told_of_cuts = True
            self._report.note(
                f"{item.job.source}: this network looks at the whole image (attention), so tiles change the result a "
                "little, and may show. --tile 0 makes images whole, if there is the memory"
            )

        def done(count: int) -> None:
            nonlocal reported
            reported += count
            self._report.pixels(count)

        with self._faults(item.job, item.weight):
            try:
                pixels = self._upscaler(item.image.pixels, done)
            finally:
                self._report.pixels(height * width - reported)
            self.input_pixels += height * width
            self.made.put(item._replace(image=item.image._replace(pixels=pixels)))

    def write_all(self) -> None:
        """Third stage, in several threads."""
        for item in self.made:
            with self._faults(item.job, item.weight):
                job, go_on = item.job, self.line.check
                write_image(job.target, item.image, job.form, self._quality, replace=self._replace, between=go_on)
                with self.line.changed:
                    self.successes += 1
                self.line.release(item.weight)
            del item  # its memory counts as free now

    @contextmanager
    def _faults(self, job: Job, weight: int, pixels: int = 0) -> Iterator[None]:
        """Report the fault of one image; give back the memory that it spoke for, and its pixels to come."""
        try:
            yield
        except (DscsrError, MemoryError, OSError) as error:
            with self.line.changed:
                self.failures += 1
            self.line.release(weight)
            self._report.pixels(pixels)
            self._report.failed(job, str(error) or "not enough memory")


@contextmanager
def _threads(stages: _Stages, jobs: Sequence[Job]) -> Iterator[None]:
    """Run reader and writers beside the block; what any of them raises is raised, and all others end."""

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def target() -> None:
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:
                stages.line.stop(error)

        return target

    works = [lambda: stages.read_all(jobs), *[stages.write_all] * WRITERS]
    # Daemons: a thread that waits for a disk must not keep the process alive after Ctrl-C.
    threads = [threading.Thread(target=guarded(work), daemon=True) for work in works]
    try:
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join()
    except BaseException as error:
        stages.line.stop(None if isinstance(error, Stopped) else error)
        for thread in threads:
            if thread.ident is not None:
                thread.join(_PATIENCE)  # what it has half-written goes
        if not isinstance(error, Stopped):
            raise
    if stages.line.fault is not None:
        raise stages.line.fault


def memory_needed(header: Header, scale: int, form: str) -> int:
    """Bytes of RAM that an image takes at most, from reading it to its result on the disk, beside the network's own.

    JPEG and WebP are encoded from a copy of the result, and the encoder of WebP makes one more.
    """
    pixel = (4 if header.alpha else 3) * (2 if header.sixteen_bit else 1)
    copies = {"jpg": 5, "webp": 13}.get(form, 0)
    return decoding_memory(header) + header.height * header.width * scale**2 * (pixel + copies) + _SLACK
