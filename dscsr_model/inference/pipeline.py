"""Images read, enlarged and written at the same time, in bounded memory; a broken one does not stop the others."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from tqdm import tqdm

from dscsr_arch.errors import DscsrError
from dscsr_model.data.image_io import DecodedImage, Header, decoding_memory, read_header, read_image
from dscsr_model.data.image_writing import check_size, without_lost_alpha, write_image
from dscsr_model.data.memory import check_memory, free_ram
from dscsr_model.inference.jobs import Job
from dscsr_model.inference.tiles import Upscaler
from dscsr_model.read_ahead import read_ahead
from dscsr_model.shared_work import ranks_here, started_together

WRITERS = 2
_AHEAD = 2  # images that wait between two stages
_SHARE = 0.5  # of the free memory, for images under way
_SLACK = 64 << 20


class Outcome(NamedTuple):
    """What became of the images."""

    made: int
    failed: int
    input_pixels: int
    seconds: float


def together(outcomes: Sequence[Outcome | None]) -> Outcome:
    """Of several processes, without those of which nothing is known, as of one."""
    known = [one for one in outcomes if one is not None]
    made, failed, pixels = (sum(values) for values in zip(*(one[:3] for one in known), strict=True))
    return Outcome(made, failed, pixels, max(one.seconds for one in known))


class Stopped(Exception):  # noqa: N818 - no fault: what a thread meets when all is to end
    """All is to end."""


class Budget:
    """The memory that images under way may take together."""

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()
        self._limit = limit
        self._used = 0
        self.fault: BaseException | None = None
        """Why all is to end: the first that was told."""

    def acquire(self, weight: int) -> None:
        """Wait until ``weight`` bytes are free of the limit; one that is larger than all of it goes alone."""
        with self._changed:
            fits = lambda: self._used == 0 or self._used + weight <= self._limit  # noqa: E731
            self._changed.wait_for(lambda: self.fault is not None or fits())
            self.check()
            self._used += weight

    def release(self, weight: int) -> None:
        """Give back what was acquired."""
        with self._changed:
            self._used -= weight
            self._changed.notify_all()

    def stop(self, fault: BaseException) -> None:
        """Let whoever waits, or checks, end."""
        with self._changed:
            self.fault = self.fault or fault
            self._changed.notify_all()

    def check(self) -> None:
        """Raise `Stopped` if all is to end."""
        if self.fault is not None:
            raise Stopped


class _Item(NamedTuple):
    job: Job
    image: DecodedImage
    weight: int


def run(
    jobs: Iterable[Job], upscaler: Upscaler, bar: tqdm[Any], *, quality: int = 95, replace: bool = False
) -> Outcome:
    """Make all images. One is read and others are written while the network works on another.

    ``jobs`` are taken as late as can be: other ranks may take of the same list. The bar is over all pixels of the
    input. An image that fails (a broken file, a format that is too small for the result, memory that is missing) is
    told above it. Whatever is no image's fault is raised, Ctrl-C too; then no file appears any more, and none is
    half-made.
    """
    start = time.monotonic()
    stages = _Stages(upscaler, bar, quality, replace)
    writing: deque[Future[None]] = deque()
    ahead = 1 if started_together() else _AHEAD  # what is asked for here, no other rank makes
    with ThreadPoolExecutor(WRITERS) as writers, closing(read_ahead(stages.read, jobs, ahead)) as images:
        try:
            for item in images:
                if item is not None and (made := stages.enlarge(item)) is not None:
                    writing.append(writers.submit(stages.write, made))
                item = made = None  # nothing here holds an image while the next one is waited for
                while len(writing) > WRITERS + _AHEAD:
                    writing.popleft().result()
            for each in writing:
                each.result()
        except BaseException as error:
            stages.budget.stop(error)
            writers.shutdown(cancel_futures=True)
            raise stages.budget.fault or error from None
    return Outcome(stages.successes, stages.failures, stages.input_pixels, time.monotonic() - start)


class _Stages:
    """The three stages, each of which gives back what an image that fails has spoken for; and the counts."""

    def __init__(self, upscaler: Upscaler, bar: tqdm[Any], quality: int, replace: bool) -> None:
        self.budget = Budget(int(free_ram() * _SHARE / ranks_here()))
        self.successes = self.failures = self.input_pixels = 0
        self._upscaler, self._bar, self._quality, self._replace = upscaler, bar, quality, replace
        self._told_of_cuts = upscaler.engine.receptive_field.local
        self._counting = threading.Lock()

    def read(self, job: Job) -> _Item | None:
        """First stage: a file to an image, as soon as memory allows."""
        with self._faults(job, 0):
            header = read_header(job.source)
            scale = self._upscaler.engine.scale
            check_size(header.height * scale, header.width * scale, job.form)
            weight = memory_needed(header, scale, job.form)
            self.budget.acquire(weight)
            with self._faults(job, weight, header.height * header.width):
                check_memory(weight, header.height, header.width, scale)
                image = without_lost_alpha(read_image(job.source), job.form)
                if image.frames > 1:
                    self._tell(f"{job.source}: the first of {image.frames} images in this file is taken")
                return _Item(job, image, weight)
        return None

    def enlarge(self, item: _Item) -> _Item | None:
        """Second stage."""
        height, width = item.image.pixels.shape[:2]
        reported = 0
        if not self._told_of_cuts and self._upscaler.side(item.image.pixels.shape) < max(height, width):
            self._told_of_cuts = True
            self._tell(
                f"{item.job.source}: this network looks at the whole image (attention, say), so tiles change the "
                "result a little, and may show. --tile 0 makes images whole, if there is the memory"
            )

        def done(count: int) -> None:
            nonlocal reported
            reported += count
            self._bar.update(count)

        with self._faults(item.job, item.weight):
            try:
                pixels = self._upscaler(item.image.pixels, done)
            finally:
                self._bar.update(height * width - reported)
            self.input_pixels += height * width
            return item._replace(image=item.image._replace(pixels=pixels))
        return None

    def write(self, item: _Item) -> None:
        """Third stage, in several threads."""
        with self._faults(item.job, item.weight):
            _, target, form = item.job
            write_image(target, item.image, form, self._quality, replace=self._replace, between=self.budget.check)
            with self._counting:
                self.successes += 1
            self.budget.release(item.weight)

    def _tell(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)

    @contextmanager
    def _faults(self, job: Job, weight: int, pixels: int = 0) -> Iterator[None]:
        """Report the fault of one image, and give back its memory and its pixels to come; any other ends all."""
        self.budget.check()
        try:
            yield
        except (DscsrError, MemoryError, OSError) as error:
            self.budget.release(weight)
            with self._counting:
                self.failures += 1
            self._bar.update(pixels)
            fault, source = str(error) or "not enough memory", str(job.source)
            self._tell(f"failed: {fault if fault.startswith(source) else f'{source}: {fault}'}")
        except BaseException as error:
            self.budget.stop(error)
            raise


def memory_needed(header: Header, scale: int, form: str) -> int:
    """Bytes of RAM that an image takes at most, from reading it to its result on the disk, beside the network's own.

    JPEG and WebP are encoded from a copy of the result, and the encoder of WebP makes one more.
    """
    pixel = (4 if header.alpha else 3) * (2 if header.sixteen_bit else 1)
    copies = {"jpg": 5, "webp": 13}.get(form, 0)
    return decoding_memory(header) + header.height * header.width * scale**2 * (pixel + copies) + _SLACK
