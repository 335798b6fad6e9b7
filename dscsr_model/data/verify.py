"""Looking for every fault of prepared LMDBs, ours or BasicSR's, and of held-out images: alone, then as pairs."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from dscsr_arch.errors import DataError
from dscsr_arch.words import many
from dscsr_model.data.image_io import decode_as_basicsr
from dscsr_model.data.lmdb_store import LmdbReader, Shape, environment, is_raw, read_meta
from dscsr_model.data.prepare import Progress, header_or_fault
from dscsr_model.data.teacher_store import TeacherReader, fingerprint, is_stored
from dscsr_model.data.workers import worker_pool

Listed = tuple[Shape, int]  # and compression level
_BATCH = 64  # images that a worker checks at a time


class Findings(NamedTuple):
    """What was found: a line for every LMDB and pair, and a line for every fault."""

    found: list[str]
    faults: list[str]

    @property
    def lines(self) -> list[str]:
        """All of it as text."""
        if not self.faults:
            return [*self.found, "No fault found."]
        count = f"{many(len(self.faults), 'fault')}:"
        return [*self.found, count, *(f"  {fault}" for fault in self.faults), "Prepare again what is at fault."]

    def add(self, what: str, keys: Iterable[str]) -> None:
        """A fault of some keys, if there are any."""
        if names := sorted(keys):
            self.faults.append(f"{what}: {len(names)}, {', '.join(names)}")


def verify(folder: Path, scale: int | None, workers: int, progress: Progress) -> Findings:
    """Check all LMDBs in ``folder`` (or the one that it is), and that they are pairs; so with held-out images there.

    The LMDB with the largest images is the GT; the others are its LR images. Without a ``scale`` sizes must show the
    one that the LMDB's name has (``X4``, ``x4``), or else any that all images of a pair share.
    """
    paths = [folder] if folder.suffix == ".lmdb" else sorted(folder.glob("*.lmdb"))
    if not paths or not folder.is_dir():
        raise DataError(f"LMDBs (folders named *.lmdb) in {folder}", "none", "Correct the path.")
    findings = Findings([], [])
    for leftover in folder.glob(".*.tmp"):
        findings.found.append(f"{leftover}: left by an interrupted `dscsr prepare`; the next run clears it.")
    metas = {path: meta for path in paths if (meta := _verify_keys(path, findings)) is not None}
    stored = {path: metas.pop(path) for path in [*metas] if is_stored(path)}
    folders = [path for path in (folder / "GT_val", *sorted(folder.glob("LQ_X*_val"))) if path.is_dir()]
    held_out = {path: _listed(path, findings) for path in folders}
    _verify_values({**metas, **held_out}, workers, progress, findings)
    for group in (metas, held_out):
        if len(group) > 1:
            _verify_pairs(group, scale, findings)
    for path, meta in stored.items():
        _verify_outputs(path, meta, metas, findings)
    for path, meta in metas.items() if held_out else ():
        photographs = {re.sub(r"(_s\d{3,})?$", ".png", key, count=1) for key in meta}
        findings.add(f"{path}: held out, but also to be trained on", photographs & held_out[folders[0]].keys())
    return findings


def _listed(folder: Path, findings: Findings) -> dict[str, Listed]:
    """What the headers of the images in a folder say, by their names."""
    headers = {file.name: header_or_fault(file) for file in sorted(folder.glob("[!.]*"))}
    findings.faults.extend(header for header in headers.values() if isinstance(header, str))
    found = {name: header for name, header in headers.items() if not isinstance(header, str)}
    return {name: ((header.height, header.width, 1 if header.gray else 3), 1) for name, header in found.items()}


def _verify_keys(path: Path, findings: Findings) -> dict[str, Listed] | None:
    """What is listed by key, once the list and the file are sound enough to look at the images."""
    try:
        meta = read_meta(path)
        with environment(path).begin() as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            stored = {bytes(key).decode(errors="replace") for key in keys}
    except DataError as error:
        findings.faults.append(str(error))
        return None
    if not meta:
        findings.faults.append(f"{path}: no images")
    findings.add(f"{path}: listed in meta_info.txt, but not in data.mdb", meta.keys() - stored)
    findings.add(f"{path}: in data.mdb, but not listed in meta_info.txt", stored - meta.keys())
    findings.add(f"{path}: keys that BasicSR cannot read (not ASCII)", {key for key in meta if not key.isascii()})
    return {key: listed for key, listed in meta.items() if key in stored}


def _verify_values(
    metas: Mapping[Path, Mapping[str, Listed]], workers: int, progress: Progress, findings: Findings
) -> None:
    """Decode every image and compare it with its entry in the list."""
    batches = [
        (path, list(meta.items())[first : first + _BATCH])
        for path, meta in metas.items()
        for first in range(0, len(meta), _BATCH)
    ]
    kinds: dict[Path, Counter[str]] = {path: Counter() for path in metas}
    with worker_pool(max(1, min(workers, len(batches)))) as pool:
        results = (result for batch in pool.in_order(_check_values, batches) for result in batch)
        for path, kind, fault in progress(results, "verifying", sum(map(len, metas.values()))):
            kinds[path][kind] += 1
            findings.faults.extend([fault] if fault else [])
    for path, counts in kinds.items():
        what = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items()))
        findings.found.append(f"{path}: {many(len(metas[path]), 'image')} ({what or 'none'})")


def _check_values(batch: tuple[Path, Sequence[tuple[str, Listed]]]) -> list[tuple[Path, str, str]]:
    """For every image its LMDB, its kind, and its fault or nothing; runs in a worker process."""
    path, entries = batch
    results = []
    with _values(path) as value:
        for key, (shape, level) in entries:
            kind, fault = _check_value(value(key), shape, level)
            results.append((path, kind, f"{path}: `{key}` {fault}" if fault else ""))
    return results


@contextmanager
def _values(path: Path) -> Iterator[Callable[[str], memoryview]]:
    """What gives the value of a key of an LMDB, or the bytes of a file in a folder."""
    if path.suffix != ".lmdb":
        yield lambda name: memoryview((path / name).read_bytes())
        return
    with environment(path).begin() as transaction:
        yield lambda key: transaction.get(key.encode())


def _check_value(value: memoryview, shape: Shape, level: int) -> tuple[str, str]:
    if is_raw(len(value), shape, level):
        return "raw", ""
    try:
        with Image.open(io.BytesIO(value)) as image:  # strict, where OpenCV fills up what is missing
            image.load()
            kind = (image.format or "").lower()
    except Exception as error:  # decoders raise whatever they like
        broken = f"{len(value):,} bytes that are neither an image nor the {np.prod(shape):,} pixels of {shape}: {error}"
        return "broken", f"does not decode, {broken}"
    pixels = decode_as_basicsr(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        return "broken", "does not decode with OpenCV, which BasicSR uses"
    found = (*pixels.shape, 1)[:3]
    return kind, "" if found == shape else f"is {found}, but listed as {shape} (height, width, channels)"


def _verify_pairs(metas: Mapping[Path, Mapping[str, Listed]], scale: int | None, findings: Findings) -> None:
    mean_size = {path: np.mean([h * w for (h, w, _), _ in meta.values()] or [0]) for path, meta in metas.items()}
    gt_path = max(metas, key=lambda path: mean_size[path])
    gt = {key: shape for key, (shape, _) in metas[gt_path].items()}
    for path in metas.keys() - {gt_path}:
        lq = {key: shape for key, (shape, _) in metas[path].items()}
        findings.add(f"{path}: without a GT in {gt_path.name}", lq.keys() - gt.keys())
        findings.add(f"{path}: missing, though in {gt_path.name}", gt.keys() - lq.keys())
        common = sorted(gt.keys() & lq.keys())
        expected = scale or _scale(path, [(gt[key], lq[key]) for key in common])
        unfitting = [key for key in common if gt[key][:2] != (expected * lq[key][0], expected * lq[key][1])]
        findings.faults.extend(
            f"{path}: `{key}` is {lq[key][:2]}, its GT {gt[key][:2]}, which is not x{expected}" for key in unfitting
        )
        pairs = many(len(common) - len(unfitting), "pair")
        findings.found.append(f"{gt_path.name} with {path.name}: {pairs} x{expected}")


def _verify_outputs(
    path: Path, meta: Mapping[str, Listed], metas: Mapping[Path, Mapping[str, Listed]], findings: Findings
) -> None:
    """What a teacher has said must be whole, and what it said of the LQ images that are there."""
    try:
        reader = TeacherReader(path)
        for index in range(len(reader)) if len(meta) == len(reader) else ():
            with reader.pixels(index):
                pass
        made_of = [other for other in metas if fingerprint(LmdbReader(other)) == reader.record.lq]
    except DataError as error:
        findings.faults.append(str(error))
        return
    if metas and not made_of:
        findings.faults.append(f"{path}: made of other LQ images than those that are here")
    of = f" of {made_of[0].name}" if made_of else ""
    findings.found.append(f"{path}: {many(len(meta), 'output')}{of} by {reader.record.words}")


def _scale(path: Path, pairs: Sequence[tuple[Shape, Shape]]) -> int:
    """The scale in the LMDB's name, or else the one that most pairs have."""
    named = re.search(r"(?i)x([2-9])(?![0-9a-z])", path.stem)
    if named:
        return int(named[1])
    return Counter(max(1, round(gt[0] / lq[0])) for gt, lq in pairs).most_common(1)[0][0] if pairs else 1
