"""Datasets, GPUs and batches of an option file: is it all there, does it fit together, does an epoch have a step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dscsr_arch.words import many
from dscsr_model.data.basicsr_pairs import existing_folder, list_folder, pair_names, read_list
from dscsr_model.data.memory import free_ram
from dscsr_model.host.options import images
from dscsr_model.host.options.faults import Key, Report
from dscsr_model.host.options.images import Images, Size
from dscsr_model.host.options.run import Run

_STOCK = ("PairedImageDataset", "SingleImageDataset")
"""BasicSR's own datasets decode every LMDB entry and open an LMDB for themselves; ours do neither."""
_BYTES_OF_A_SAMPLE = 90
"""Of BasicSR's sampler, for each sample of an epoch: a drawn number, two entries in lists, two numbers of Python's."""


def leave_out_missing(options: MutableMapping[Any, Any]) -> dict[str, str]:
    """Take the datasets whose folders are not there out of ``options``; none, if that would leave none.

    Returns:
        The missing path of each, by its key under ``datasets:``.
    """
    datasets = options.get("datasets")
    if not isinstance(datasets, dict):
        return {}
    missing: dict[str, str] = {}
    for name, dataset in datasets.items():
        for path in _missing_roots(dataset).values() if isinstance(dataset, dict) else ():
            missing.setdefault(name, path)
    if len(missing) == len(datasets):
        return {}
    options["datasets"] = {name: dataset for name, dataset in datasets.items() if name not in missing}
    return missing


def _missing_roots(dataset: Mapping[Any, Any]) -> dict[str, str]:
    """The paths of a dataset section that name one place on this machine, where nothing is."""
    return {
        str(name): path
        for name, path in dataset.items()
        if str(name).startswith("dataroot") and isinstance(path, str) and path
        if "://" not in path and not any(c in path for c in "*?[") and not Path(path).expanduser().exists()
    }


# --- the machine ------------------------------------------------------------------------------------------------------


def check_machine(run: Run) -> None:
    """Report more GPUs than there are, and a place to write that is taken."""
    folder = Path("experiments" if run.is_train else "results")
    if folder.exists() and not folder.is_dir():  # BasicSR makes it before it opens its log
        got = f"a file `{folder}` in {Path.cwd()}"
        run.report.add(("name",), f"a folder `{folder}`, or none yet", got, "Move it away.")
    wanted, there = run.whole("num_gpu"), _gpus()
    if wanted and there == 0:
        got = f"{wanted}, and PyTorch {torch.__version__} sees no usable GPU here"
        remedy = "Set `num_gpu: auto`, or 0 for the CPU; `dscsr doctor` says why no GPU is seen."
        run.report.add(("num_gpu",), "`auto` or 0", got, remedy)
    elif wanted and wanted > there and run.launcher == "none":  # a launcher counts processes instead
        run.report.add(("num_gpu",), f"at most {there}, the GPUs of this machine", str(wanted), "Set `num_gpu: auto`.")


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _processes(launcher: str) -> int:
    """How many processes train together, by the launcher's environment."""
    if launcher == "none":
        return 1
    value = os.environ.get("SLURM_NTASKS" if launcher == "slurm" else "WORLD_SIZE", "1")
    return max(1, int(value)) if value.isdigit() else 1


# --- datasets ---------------------------------------------------------------------------------------------------------


def check_datasets(run: Run) -> None:
    """Report missing data, pairs that do not match, sizes that do not fit, and epochs without a batch."""
    in_use: dict[Path, str] = {}
    for name, dataset in run.section("datasets").items():
        key = ("datasets", str(name))
        if not isinstance(dataset, dict) or key in run.report.found:
            continue
        known = run.known_datasets.get(name)
        if known is None:  # all that can be said of another plugin's dataset: its folders should be there
            for root, path in _missing_roots(dataset).items():
                with run.report.catching((*key, root)):
                    existing_folder(path)
        else:
            found = _read(key, dataset, run)
            if known in _STOCK:
                _check_lmdb_once(key, dataset, in_use, run)
            channels = _channels(key, dataset, found, run)
            if channels is not None:
                run.channels[name] = channels
            if found is not None and found.count == 0:
                remedy = "Prepare it again with `dscsr prepare`."
                run.report.add((*key, "dataroot_lq"), "images", "an LMDB without any", remedy)
            elif found is not None:
                _check_sizes(key, found, run)
                for one in (run, *run.stages) if name == "train" else ():
                    _check_batches(key, one.section(*key), found.count, one)
        _check_loader(key, dataset, run)


def _sound(key: Key, dataset: Mapping[Any, Any], name: str, run: Run) -> Any:
    """The value of an option, unless it is faulty."""
    return None if run.report.has(*key, name) else dataset.get(name)


def _is_lmdb(key: Key, dataset: Mapping[Any, Any], run: Run) -> bool:
    return (_sound(key, dataset, "io_backend", run) or {}).get("type") == "lmdb"


def _channels(key: Key, dataset: Mapping[Any, Any], found: Images | None, run: Run) -> int | None:
    """Channels of the images that a dataset gives; None where faults hide them."""
    color = dataset.get("color")
    if run.report.has(*key, "color"):
        return None
    if run.known_datasets[key[1]] in _STOCK or color is not None or not _is_lmdb(key, dataset, run):
        return 1 if color in ("y", "gray") else 3
    return None if found is None else 1 if found.gray else 3


def _read(key: Key, dataset: Mapping[Any, Any], run: Run) -> Images | None:
    """What the images of a dataset are, as far as it can be told; faults are reported."""
    report, known, lmdb = run.report, run.known_datasets[key[1]], _is_lmdb(key, dataset, run)
    names = ("dataroot_lq",) if known == "SingleImageDataset" else ("dataroot_gt", "dataroot_lq")
    roots = {(*key, name): root for name in names if (root := _sound(key, dataset, name, run))}
    open_root: Callable[[str], Any] = partial(images.read_lmdb, encoded=known in _STOCK)
    opened = report.each(open_root if lmdb else existing_folder, roots)
    if opened is None or len(opened) < len(names):
        return None
    if not lmdb:
        return _read_folders(key, dataset, dict(zip(roots, opened, strict=True)), report)
    if len(opened) == 1:
        return Images(len(opened[0]))
    with report.catching((*key, "dataroot_lq")):
        return images.pair_lmdbs(*opened)
    return None


def _read_folders(key: Key, dataset: Mapping[Any, Any], folders: dict[Key, Path], report: Report) -> Images | None:
    """What is in the folder of LQ images, or in those of GT and LQ images, which are paired."""
    if any(report.has(*key, name) for name in ("filename_tmpl", "meta_info_file", "io_backend")):
        return None
    meta, template, pairs = dataset.get("meta_info_file"), dataset.get("filename_tmpl", "{}"), None
    names = report.each(list_folder, folders) if meta is None else None
    if len(folders) == 1:
        return Images(len(names[0])) if names else None
    gt, lq = folders.values()
    with report.catching((*key, "dataroot_lq" if meta is None else "meta_info_file")):
        if meta is not None:
            pairs = read_list(meta, gt, lq, template)
        elif names is not None:
            pairs = pair_names(names[0], names[1], lq, template)
    if pairs is None:
        return None
    sample = list(pairs)[:: -(-len(pairs) // images.MOST_HEADERS) or 1]
    files = [[gt / name for name in sample], [lq / pairs[name] for name in sample]]
    sizes = report.each(images.read_sizes, dict(zip(folders, files, strict=True)))
    if sizes is None:
        return None
    both = zip(sample, *sizes, strict=True)
    return Images(len(pairs), {name: (large, small) for name, large, small in both if large and small})


def _check_sizes(key: Key, found: Images, run: Run) -> None:
    scale, train = run.whole("scale"), key[1] == "train"
    if not found.sizes or scale is None:
        return
    wrong = {name: pair for name, pair in found.sizes.items() if not _fits(*pair, scale, train)}
    if wrong:
        name, (gt, lq) = next(iter(wrong.items()))
        example = f"`{name}`, GT {gt[1]}×{gt[0]} and LQ {lq[1]}×{lq[0]}"
        ratios = {round(large[0] / small[0]) for large, small in wrong.values()}
        every = len(wrong) == len(found.sizes)
        if every and all(large[0] < small[0] for large, small in wrong.values()):
            got = f"GT that is smaller, for example {example}"
            run.report.add((*key, "dataroot_gt"), "GT larger than LQ", got, "Exchange `dataroot_gt` and `dataroot_lq`.")
            return
        if every and len(ratios) == 1 and ratios != {scale}:
            got = f"images that are {ratios.pop()} times as large, for example {example}"
            remedy = "Set `scale` (and the network's) to that of the data, or take other data."
        else:
            got = f"{len(wrong)} of {many(len(found.sizes), 'pair')} that are not, for example {example}"
            remedy = "Make LQ from these GT images, cropped to a multiple of the scale; `dscsr prepare` does both."
        run.report.add((*key, "dataroot_lq"), f"GT {scale} times as large as LQ (`scale: {scale}`)", got, remedy)
    name = min(found.sizes, key=lambda name: min(found.sizes[name][0]))
    smallest = min(found.sizes[name][0])
    for one in (run, *run.stages) if train else ():
        if (gt_size := one.whole(*key, "gt_size") or 0) > smallest:
            few = sum(min(gt) < gt_size for gt, _ in found.sizes.values())
            expected = f"at most {smallest}, the smallest side of the GT images"
            such = f"{few} of {len(found.sizes)} are smaller than {gt_size}, such as `{name}`"
            remedy = f"{such}: lower `gt_size`, or remove them."
            one.report.add((*key, "gt_size"), expected, gt_size, remedy)
    for metric in run.section("val", "metrics") if not train else ():  # it needs pixels inside the border
        border = run.whole("val", "metrics", str(metric), "crop_border")
        if border is not None and 2 * border >= smallest:
            got = f"{border}, and `{name}` is {smallest} pixels at its smallest side"
            where = ("val", "metrics", str(metric), "crop_border")
            run.report.add(
                where, "a border that leaves something of every image", got, "Write the scale, as papers do."
            )


def _fits(gt: Size, lq: Size, scale: int, train: bool) -> bool:
    """BasicSR crops GT to LQ·scale when it validates; when it trains the sizes must agree exactly."""
    if train:
        return gt == (lq[0] * scale, lq[1] * scale)
    return (gt[0] // scale, gt[1] // scale) == lq


def _check_batches(key: Key, dataset: Mapping[Any, Any], count: int, run: Run) -> None:
    """BasicSR drops a last, incomplete batch; an epoch of zero batches ends "successfully", untrained."""
    batch, ratio = run.whole(*key, "batch_size_per_gpu"), dataset.get("dataset_enlarge_ratio", 1)
    if not batch or run.report.has(*key, "dataset_enlarge_ratio"):
        return
    ranks, gpus = _processes(run.launcher), run.options.get("num_gpu")
    samples = math.ceil(min(count * ratio, 1e30) / ranks)  # beyond, Python's numbers end
    gpus = _gpus() if gpus == "auto" else gpus
    together = max(1, gpus) if run.launcher == "none" and isinstance(gpus, int) else 1
    most = free_ram() // _BYTES_OF_A_SAMPLE
    if samples * ranks > most:
        expected, got = f"an epoch whose order fits into memory, at most {most:.0e} samples", f"{samples * ranks:.0e}"
        remedy = "10 to 100 are usual: it makes epochs longer."
        run.report.add((*key, "dataset_enlarge_ratio"), expected, got, remedy)
    if samples // (batch * together):
        return
    each = f" × {together} GPUs" if together > 1 else ""
    share = f" for each of {ranks} processes" if ranks > 1 else ""
    needed = -(-batch * together * ranks // count)
    got = f"{batch}{each} of {many(count, 'image')}: no whole batch in an epoch"
    remedy = f"Lower it, add images, or set `dataset_enlarge_ratio: {needed}`."
    expected = f"at most {samples // together} (images of an epoch{share}{', per GPU' if together > 1 else ''})"
    run.report.add((*key, "batch_size_per_gpu"), expected, got, remedy)


def _check_loader(key: Key, dataset: Mapping[Any, Any], run: Run) -> None:
    train, report, scale = key[1] == "train", run.report, run.whole("scale")
    for one in (run, *run.stages) if train and run.known_datasets.get("train") else ():
        if scale and (gt_size := one.whole(*key, "gt_size")) and gt_size % scale:
            below = gt_size // scale * scale
            words = f"{below} or {below + scale}" if below else str(scale)
            one.report.add((*key, "gt_size"), f"a multiple of the scale, {scale}", gt_size, f"Write {words}.")
    if train and dataset.get("prefetch_mode") == "cuda":
        if dataset.get("pin_memory") is not True:
            got = "false" if "pin_memory" in dataset else "no such key"
            report.add((*key, "pin_memory"), "true, as `prefetch_mode: cuda` needs it", got, "Set `pin_memory: true`.")
        if _gpus() == 0:
            report.add((*key, "prefetch_mode"), "`cpu` or `~`, as there is no usable GPU", "`cuda`", "Set it to `~`.")
    if train and dataset.get("prefetch_mode") == "cpu" and dataset.get("persistent_workers") is True:
        why = "`prefetch_mode: cpu` reads each epoch in a thread, and two would wait for the same workers for ever"
        report.add((*key, "persistent_workers"), f"false, as {why}", "true", "Remove it.")
    workers = dataset.get("num_worker_per_gpu") if train else 0
    if dataset.get("persistent_workers") is True and workers == 0:
        why = "`num_worker_per_gpu: 0` has none to keep" if train else "BasicSR validates without reading processes"
        report.add((*key, "persistent_workers"), f"false, as {why}", "true", "Remove it.")


def _check_lmdb_once(key: Key, dataset: Mapping[Any, Any], in_use: dict[Path, str], run: Run) -> None:
    """py-lmdb ≥ 2 refuses to open a path twice in a process or its forks, and BasicSR's datasets open their own."""
    import lmdb

    if not _is_lmdb(key, dataset, run) or int(lmdb.__version__.split(".")[0]) < 2:
        return
    for name in ("dataroot_gt", "dataroot_lq"):
        root = _sound(key, dataset, name, run)
        if not isinstance(root, str):
            continue
        user = in_use.setdefault(Path(root).expanduser().resolve(), here := ": ".join((*key, name)))
        if user != here:
            got = f"{root!r}, which `{user}` opens already"
            how = f"py-lmdb {lmdb.__version__} opens a path only once"
            remedy = f"{how}: give each its own copy, or a folder of images."
            run.report.add((*key, name), "an LMDB that no other dataset uses", got, remedy)
