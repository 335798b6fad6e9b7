"""Datasets, GPUs and batches of an option file: is it all there, does it fit together, does an epoch have a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch

from dscsr_model.data.memory import free_memory
from dscsr_model.host import options_images as images
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key
from dscsr_model.host.options_images import Images, Size
from dscsr_model.host.options_machine import gpus_there, processes
from dscsr_model.host.options_structure import Run

_BYTES_OF_A_SAMPLE = 90
"""Of BasicSR's sampler, for each sample of an epoch: a drawn number, two entries in lists, two numbers of Python's."""


def leave_out_missing(options: MutableMapping[Any, Any]) -> dict[str, str]:
    """Take the datasets whose folders are not there out of ``options``; none, if that would leave none.

    Returns:
        The missing path of each, by its key under ``datasets:``.
    """
    datasets = options.get("datasets")
    missing: dict[str, str] = {}
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        for path in _plain_roots(dataset).values() if isinstance(dataset, dict) else ():
            if not Path(path).expanduser().exists():
                missing.setdefault(name, path)
    if not isinstance(datasets, dict) or len(missing) == len(datasets):
        return {}
    options["datasets"] = {name: dataset for name, dataset in datasets.items() if name not in missing}
    return missing


def check_datasets(run: Run) -> None:
    """Report missing data, pairs that do not match, sizes that do not fit, and epochs without a batch."""
    in_use: dict[Path, str] = {}
    for name, dataset in run.section("datasets").items():
        key = ("datasets", str(name))
        if not isinstance(dataset, dict) or key in run.report.found:
            continue
        known = run.known_datasets.get(name)
        if known is None:
            _dataroots_exist(key, dataset, run)
        else:
            found = _read_single(key, dataset, run) if known == "SingleImageDataset" else _read_pair(key, dataset, run)
            if known in schema.STOCK_DATASETS:
                _lmdb_once(key, dataset, in_use, run)
            channels = _channels(key, dataset, found, run)
            if channels is not None:
                run.channels[name] = channels
            if found is not None:
                _check_images(key, dataset, found, run)
                if name == "train":
                    _check_batches(key, dataset, found.count, run)
        _check_loader(key, dataset, run)


def _channels(key: Key, dataset: Mapping[Any, Any], found: Images | None, run: Run) -> int | None:
    """Channels of the images that a dataset gives; None where faults hide them."""
    color, stock = dataset.get("color"), run.known_datasets[key[1]] in schema.STOCK_DATASETS
    if run.report.has(*key, "color"):
        return None
    if stock or color is not None or _backend(key, dataset, run) != "lmdb":
        return 1 if color in ("y", "gray") else 3
    return None if found is None else 1 if found.gray else 3


def _dataroots_exist(key: Key, dataset: Mapping[Any, Any], run: Run) -> None:
    """All that can be said of another plugin's dataset: its folders should be there."""
    for name, path in _plain_roots(dataset).items():
        if not Path(path).expanduser().exists():
            images.existing_folder(path, (*key, name), run.report)


def _plain_roots(dataset: Mapping[Any, Any]) -> dict[str, str]:
    """The paths of a dataset section that name one place on this machine."""
    return {
        str(name): path
        for name, path in dataset.items()
        if str(name).startswith("dataroot") and isinstance(path, str) and path
        if "://" not in path and not any(c in path for c in "*?[")
    }


def _root(key: Key, dataset: Mapping[Any, Any], name: str, run: Run) -> str | None:
    path = dataset.get(name)
    return path if isinstance(path, str) and path and not run.report.has(*key, name) else None


def _backend(key: Key, dataset: Mapping[Any, Any], run: Run) -> str | None:
    backend = dataset.get("io_backend")
    faulty = run.report.has(*key, "io_backend") or not isinstance(backend, dict)
    return None if faulty else backend.get("type")  # type: ignore[union-attr]


def _read_pair(key: Key, dataset: Mapping[Any, Any], run: Run) -> Images | None:
    report, backend = run.report, _backend(key, dataset, run)
    gt_root, lq_root = (_root(key, dataset, name, run) for name in ("dataroot_gt", "dataroot_lq"))
    gt_key, lq_key = (*key, "dataroot_gt"), (*key, "dataroot_lq")
    if backend == "lmdb":
        encoded = run.known_datasets[key[1]] in schema.STOCK_DATASETS
        gt = images.read_lmdb(gt_root, gt_key, report, encoded=encoded) if gt_root else None
        lq = images.read_lmdb(lq_root, lq_key, report, encoded=encoded) if lq_root else None
        return None if gt is None or lq is None else images.pair_lmdbs(gt, lq, lq_key, report)
    gt_folder = images.existing_folder(gt_root, gt_key, report) if gt_root else None
    lq_folder = images.existing_folder(lq_root, lq_key, report) if lq_root else None
    template, meta = dataset.get("filename_tmpl", "{}"), dataset.get("meta_info_file")
    ready = not (report.has(*key, "filename_tmpl") or report.has(*key, "meta_info_file"))
    if gt_folder is None or lq_folder is None or not ready or backend != "disk":
        return None
    if meta is not None:
        return images.pair_listed(gt_folder, lq_folder, meta, template, key, report)
    return images.pair_folders(gt_folder, lq_folder, template, (gt_key, lq_key), report)


def _read_single(key: Key, dataset: Mapping[Any, Any], run: Run) -> Images | None:
    root, where, backend = _root(key, dataset, "dataroot_lq", run), (*key, "dataroot_lq"), _backend(key, dataset, run)
    if root is None:
        return None
    if backend == "lmdb":
        sizes = images.read_lmdb(root, where, run.report, encoded=True)
        return None if sizes is None else Images(len(sizes), {}, {})
    folder = images.existing_folder(root, where, run.report)
    if folder is None or dataset.get("meta_info_file") is not None:
        return None
    names = images.list_folder(folder, where, run.report)
    return None if names is None else Images(len(names), {}, {})


def _check_images(key: Key, dataset: Mapping[Any, Any], found: Images, run: Run) -> None:
    scale, train = run.options.get("scale"), key[1] == "train"
    if found.count == 0:
        run.report.add((*key, "dataroot_lq"), "images", "an LMDB without any", "Prepare it again with `dscsr prepare`.")
        return
    if not found.gt or run.report.has("scale") or not isinstance(scale, int):
        return
    wrong = {name: (gt, found.lq[name]) for name, gt in found.gt.items() if not _fits(gt, found.lq[name], scale, train)}
    if wrong:
        name, (gt, lq) = next(iter(wrong.items()))
        example = f"`{name}`, GT {gt[1]}×{gt[0]} and LQ {lq[1]}×{lq[0]}"
        ratios = {round(large[0] / small[0]) for large, small in wrong.values()}
        if all(large[0] < small[0] for large, small in wrong.values()) and len(wrong) == len(found.gt):
            got = f"GT that is smaller, for example {example}"
            run.report.add((*key, "dataroot_gt"), "GT larger than LQ", got, "Exchange `dataroot_gt` and `dataroot_lq`.")
            return
        if len(wrong) == len(found.gt) and len(ratios) == 1 and ratios != {scale}:
            got = f"images that are {ratios.pop()} times as large, for example {example}"
            remedy = "Set `scale` (and the network's) to that of the data, or take other data."
        else:
            got = f"{len(wrong)} of {len(found.gt)} pairs that are not, for example {example}"
            remedy = "Make LQ from these GT images, cropped to a multiple of the scale; `dscsr prepare` does both."
        run.report.add((*key, "dataroot_lq"), f"GT {scale} times as large as LQ (`scale: {scale}`)", got, remedy)
    if train:
        _check_patch(key, dataset.get("gt_size"), scale, found.gt, run)
    else:
        _check_borders(found.gt, run)


def _fits(gt: Size, lq: Size, scale: int, train: bool) -> bool:
    """BasicSR crops GT to LQ·scale when it validates; when it trains the sizes must agree exactly."""
    if train:
        return gt == (lq[0] * scale, lq[1] * scale)
    return (gt[0] // scale, gt[1] // scale) == lq


def _check_patch(key: Key, gt_size: Any, scale: int, gt: Mapping[str, Size], run: Run) -> None:
    where = (*key, "gt_size")
    if run.report.has(*where) or not isinstance(gt_size, int):
        return
    name = min(gt, key=lambda name: min(gt[name]))
    smallest = min(gt[name])
    if gt_size > smallest:
        few = sum(min(size) < gt_size for size in gt.values())
        expected = f"at most {smallest}, the smallest side of the GT images"
        remedy = f"{few} of {len(gt)} are smaller than {gt_size}, such as `{name}`: lower `gt_size`, or remove them."
        run.report.add(where, expected, str(gt_size), remedy)


def _check_borders(gt: Mapping[str, Size], run: Run) -> None:
    """A metric needs pixels inside the border that it leaves out."""
    name = min(gt, key=lambda name: min(gt[name]))
    smallest = min(gt[name])
    for metric, section in run.section("val", "metrics").items():
        border = section.get("crop_border") if isinstance(section, dict) else None
        key = ("val", "metrics", str(metric), "crop_border")
        if isinstance(border, int) and 2 * border >= smallest and not run.report.has(*key):
            got = f"{border}, and `{name}` is {smallest} pixels at its smallest side"
            run.report.add(key, "a border that leaves something of every image", got, "Write the scale, as papers do.")


def _check_batches(key: Key, dataset: Mapping[Any, Any], count: int, run: Run) -> None:
    """BasicSR drops a last, incomplete batch; an epoch of zero batches ends "successfully", untrained."""
    batch, ratio = dataset.get("batch_size_per_gpu"), dataset.get("dataset_enlarge_ratio", 1)
    if run.report.has(*key, "batch_size_per_gpu") or run.report.has(*key, "dataset_enlarge_ratio") or not batch:
        return
    ranks = processes(run.launcher)
    samples = math.ceil(min(count * ratio, 1e30) / ranks)  # beyond, Python's numbers end
    gpus = run.options.get("num_gpu")
    gpus = gpus_there() if gpus == "auto" else gpus
    together = max(1, gpus) if run.launcher == "none" and isinstance(gpus, int) else 1
    most = free_memory(torch.device("cpu")) // _BYTES_OF_A_SAMPLE
    if samples * ranks > most:
        expected, got = f"an epoch whose order fits into memory, at most {most:.0e} samples", f"{samples * ranks:.0e}"
        remedy = "10 to 100 are usual: it makes epochs longer."
        run.report.add((*key, "dataset_enlarge_ratio"), expected, got, remedy)
    if samples // (batch * together):
        return
    each = f" × {together} GPUs" if together > 1 else ""
    share = f" for each of {ranks} processes" if ranks > 1 else ""
    needed = -(-batch * together * ranks // count)
    got = f"{batch}{each} of {count} images: no whole batch in an epoch"
    remedy = f"Lower it, add images, or set `dataset_enlarge_ratio: {needed}`."
    expected = f"at most {samples // together} (images of an epoch{share}{', per GPU' if together > 1 else ''})"
    run.report.add((*key, "batch_size_per_gpu"), expected, got, remedy)


def _check_loader(key: Key, dataset: Mapping[Any, Any], run: Run) -> None:
    train, report = key[1] == "train", run.report
    scale: Any = run.options.get("scale")
    gt_size: Any = dataset.get("gt_size")
    whole = all(isinstance(size, int) and size > 0 for size in (scale, gt_size))
    if train and run.known_datasets.get("train") and whole and gt_size % scale:
        below = gt_size // scale * scale
        words = f"{below} or {below + scale}" if below else str(scale)
        report.add((*key, "gt_size"), f"a multiple of the scale, {scale}", str(gt_size), f"Write {words}.")
    if train and dataset.get("prefetch_mode") == "cuda":
        if dataset.get("pin_memory") is not True:
            got = "false" if "pin_memory" in dataset else "no such key"
            report.add((*key, "pin_memory"), "true, as `prefetch_mode: cuda` needs it", got, "Set `pin_memory: true`.")
        if gpus_there() == 0:
            report.add((*key, "prefetch_mode"), "`cpu` or `~`, as there is no usable GPU", "`cuda`", "Set it to `~`.")
    workers = dataset.get("num_worker_per_gpu") if train else 0
    if dataset.get("persistent_workers") is True and workers == 0:
        why = "`num_worker_per_gpu: 0` has none to keep" if train else "BasicSR validates without reading processes"
        report.add((*key, "persistent_workers"), f"false, as {why}", "true", "Remove it.")


def _lmdb_once(key: Key, dataset: Mapping[Any, Any], in_use: dict[Path, str], run: Run) -> None:
    """py-lmdb ≥ 2 refuses to open a path twice in a process or its forks, and BasicSR's datasets open their own."""
    import lmdb

    if _backend(key, dataset, run) != "lmdb" or int(lmdb.__version__.split(".")[0]) < 2:
        return
    for name in ("dataroot_gt", "dataroot_lq"):
        root = _root(key, dataset, name, run)
        if root is None:
            continue
        path = Path(root).expanduser().resolve()
        place = ": ".join((*key, name))
        if path in in_use:
            got = f"{root!r}, which `{in_use[path]}` opens already"
            remedy = (
                f"py-lmdb {lmdb.__version__} opens a path only once: give each its own copy, or a folder of images."
            )
            run.report.add((*key, name), "an LMDB that no other dataset uses", got, remedy)
        in_use.setdefault(path, place)
