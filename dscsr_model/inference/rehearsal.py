"""Files of other programs get to be known by running them on small images in a process where they can do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import torch

from dscsr_arch.errors import DscsrError, SizeError
from dscsr_arch.sizes import LARGEST, SizeRequirements, try_sizes
from dscsr_model.inference import rehearsal_process
from dscsr_model.inference.receptive_field import PROBE_SIDE

_SIDES = (192, 96)
"""Of images to measure memory on; the first one whose run can be waited for."""
_MOST_BYTES, _MOST_SECONDS, _PATIENCE = 2 * 2**30, 8, 60
"""What opening a file and all runs to get to know it may take: memory beyond the file's size, seconds of one core, and
seconds in all, however busy the machine is."""
_ANY_SIZE = "Export it again with dynamic height and width."

Ask = Callable[[Sequence[int] | None], dict[str, Any]]
"""Has the file run on zeros of a shape; raises RuntimeError if that fails. None: what it takes and gives."""


class Said(NamedTuple):
    """What a file tells of itself."""

    half: bool
    """Whether it computes in float16."""
    channels: int
    multiple: str | None
    """Of the sides of its images, as text of anybody's."""


class Learned(NamedTuple):
    """What a rehearsal tells of a file."""

    half: bool
    channels: int
    sizes: SizeRequirements
    shape: tuple[int, ...]
    """Of the result for an image of `PROBE_SIDE`."""
    bytes_per_pixel: float


def rehearse(path: Path, kind: str, inspect: Callable[[Path, Ask], Said]) -> Learned:
    """Get to know a file by running it on small images in a process of its own; see `rehearsal_process`.

    Args:
        path: The file.
        kind: Of it, ``onnx`` or ``ncnn``.
        inspect: Finds what the file says of itself, and raises DscsrError for one that is not to be run.
    """
    with _process(path, kind) as (process, ask):
        half, channels, said = inspect(path, ask)
        try:
            sizes = next((SizeRequirements(n, n) for n in range(1, LARGEST + 1) if said == str(n)), None)
            if sizes is None:

                def run(x: torch.Tensor) -> torch.Tensor:
                    return torch.empty(ask(x.shape)["shape"], device="meta")

                sizes = try_sizes(run, (channels,), str(path), torch.empty(0), _ANY_SIZE)
            side = sizes.fit(PROBE_SIDE)
            found = ask((1, channels, side, side))
            shape = tuple(found["shape"])
            for wanted in map(sizes.fit, _SIDES):
                if found["seconds"] * (wanted / side) ** 2 < _MOST_SECONDS / 4:
                    side, found = wanted, ask((1, channels, wanted, wanted))
                    break
        except (RuntimeError, SizeError) as error:
            if process.poll() is not None:
                raise _too_much(path) from None
            if isinstance(error, SizeError):
                raise
            got = f"one that fails: {error}"
            raise DscsrError("a network that takes images of any size", got, _ANY_SIZE, path) from error
    memory = max(4096.0, found["grown"] / side**2)  # the heap may have some to spare
    return Learned(half, channels, sizes, shape, memory)


@contextmanager
def _process(path: Path, kind: str) -> Iterator[tuple[subprocess.Popen[str], Ask]]:
    most = _MOST_BYTES + 4 * path.stat().st_size
    process = subprocess.Popen(
        [sys.executable, rehearsal_process.__file__, kind, str(path.resolve()), str(most), str(_MOST_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )

    def ask(shape: Sequence[int] | None) -> dict[str, Any]:
        if shape is not None:
            with suppress(OSError):  # then there is no answer
                print(list(shape), file=process.stdin, flush=True)
        if process.stdout is None or not (line := process.stdout.readline()):
            process.wait()
            raise _too_much(path)
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise RuntimeError(answer["fault"])
        return answer

    timer = Timer(_PATIENCE, process.kill)
    timer.start()
    try:
        yield process, ask
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def _too_much(path: Path) -> DscsrError:
    return DscsrError(
        f"a network that runs on small images in {_MOST_SECONDS} s and 2 GiB",
        "one that takes more",
        "Do not use it: it is damaged, or made to do harm.",
        path,
    )
