"""Option files of `options/` made tiny, changed at random, and run: nothing accepted may end in a traceback.

A run is that of the command line, in a fork of this process that ends after two iterations.
"""

import copy
import random
import resource
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import forks
import option_files
import yaml

from dscsr_arch import SPAN

OPTIONS = Path(__file__).resolve().parents[1] / "options"
MOST_SECONDS = 90
MOST_MEMORY = 6 << 30
BASES = (
    "train_span_x4", "train_span_x4_stock", "train_dsclora_x4", "train_dsclora_x4_self_teacher",
    "train_lora_edsr_x4", "train_edsr_bsds400", "train_csd_edsr_x4", "train_csd_span_x4", "test_span_x4",
    "test_csd_edsr_x4", "test_dsclora_x4",
)  # fmt: skip
_SMALL: dict[str, Any] = {
    "num_gpu": 0, "feature_channels": 8, "num_feat": 8, "num_block": 1, "num_group": 1, "squeeze_factor": 2,
    "gt_size": 32, "num_worker_per_gpu": 0, "batch_size_per_gpu": 4, "dataset_enlarge_ratio": 1, "pin_memory": False,
    "total_iter": 2, "milestones": [1], "periods": [2], "T_max": 2, "val_freq": 2, "print_freq": 1,
    "save_checkpoint_freq": 2, "use_tb_logger": False, "vgg_weights": "random", "num_negatives": 2, "border": 1,
    "until": 1,
}  # fmt: skip


Section = dict[Any, Any]


def small(options: Any) -> Any:
    """The same options with tiny networks, batches and lengths."""
    if isinstance(options, list):
        return [small(each) for each in options]
    if not isinstance(options, dict):
        return options
    return {key: _SMALL[key] if key in _SMALL else small(value) for key, value in options.items()}


def bases(root: Path, names: Iterable[str] = BASES) -> list[tuple[str, Section]]:
    """``train`` or ``test`` and options without a fault, for data and weights that are made under ``root``."""
    found = []
    for name in names:
        options = small(yaml.safe_load((OPTIONS / f"{name}.yml").read_text(encoding="utf-8")))
        (root / name).mkdir()
        for key, dataset in options["datasets"].items():
            option_files.make_dataset(root / name / key, dataset, options["scale"])
        files = [(options["path"], "pretrain_network_g", option_files.build(options["network_g"]))]
        if "teacher" in options:
            files.append((options["teacher"], "weights", SPAN(feature_channels=8)))
        for section, key, network in files:
            if section[key]:
                file, section[key] = section[key], str(root / name / section[key])
                param_key = section.get("param_key_g", section.get("param_key"))
                option_files.make_weights(root / name, file, param_key, network)
        found.append(("train" if "train" in options else "test", options))
    return found


# --- changes ----------------------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 4, 7, 32, 1000, 10**9, 10**30, 10**400, 0.0, 0.5, 1.0, -0.5, 1e-9, 1e9, 1e308,
    float("nan"), float("inf"), "", " ", "text", "1e-4", "nan", "../x", "train", "L1Loss", [], [1], [0], [-1],
    [1, 2, 3], [0.9, 0.99], [0.9, 0.99, 0.999], ["a"], [[1, 2], [3]], [None], {}, {"type": "L1Loss"}, {"a": 1},
    {1: 2}, {None: None}, {"type": None}, b"bytes",
)  # fmt: skip
_KEYS: tuple[Any, ...] = ("x", "type", "name", 1, None, True, 1.5, "precision", "tile", "loss_weight", "scale", "lora")


def _places(options: Section) -> list[tuple[Section, Any]]:
    """Every key with the section that it stands in."""
    found: list[tuple[Section, Any]] = []
    for key, value in options.items():
        found.append((options, key))
        if isinstance(value, dict):
            found += _places(value)
    return found


def _drop(draw: random.Random, options: Section) -> None:
    section, key = draw.choice(_places(options))
    del section[key]


def _replace(draw: random.Random, options: Section) -> None:
    section, key = draw.choice(_places(options))
    section[key] = copy.deepcopy(draw.choice(_VALUES))


_TORCHS = ("AdamW", "SGD", "LBFGS", "Rprop", "OneCycleLR", "CosineAnnealingLR", "CyclicLR")


def _retype(draw: random.Random, options: Section) -> None:
    """Name another registered type: the richest source of what nobody has thought of."""
    from basicsr.utils import registry

    section, key = draw.choice([(s, k) for s, k in _places(options) if k in ("type", "model_type")])
    all_names = [sorted(getattr(registry, f"{kind}_REGISTRY").keys()) for kind in ("MODEL", "ARCH", "LOSS", "DATASET")]
    same = next((names for names in all_names if section[key] in names), draw.choice(all_names))
    section[key] = draw.choice([*same, *_TORCHS])


def _copy(draw: random.Random, options: Section) -> None:
    """A key into another section, or under another name; it may be taken away where it was."""
    section, key = draw.choice(_places(options))
    target = draw.choice([section, options, *(s[k] for s, k in _places(options) if isinstance(s[k], dict))])
    name = draw.choice([f"{key}_2", f"x_{key}", *_KEYS]) if target is section else key
    target[name] = copy.deepcopy(section[key] if draw.random() < 0.5 else section.pop(key))


_LIKELY: tuple[Any, ...] = (
    True, False, 0, 1, 2, 3, 5, 8, -1, 0.1, 0.5, 0.9, 3.5, [1], [0.5, 0.5], [1, 2, 3], [0.25], "psnr", "x", "{}", None,
)  # fmt: skip


def _likely(draw: random.Random, options: Section) -> None:
    """Give a known option a value of its kind: what is accepted most often."""
    from dscsr_model.options.datasets import DATASETS, PairedImageDataset
    from dscsr_model.options.section import Section as Declarations
    from dscsr_model.options.sections import Options

    data = draw.choice(list(options["datasets"]))
    dataset = options["datasets"][data]
    sections: list[tuple[Section, type[Declarations]]] = [(dataset, DATASETS.get(dataset["type"], PairedImageDataset))]
    sections += [(options.get(key, {}), Options.inside(key)) for key in ("train", "val", "val", "logger", "path")]
    train, declared = sections[1]
    sections += [(train.get(key, {}), declared.inside(key)) for key in ("optim_g", "scheduler")]
    section, of = draw.choice(sections)
    name = draw.choice(sorted(key for key in of.declared() if not of.inside(key)))
    values = [value for value in (*_LIKELY, *of.choices(name)) if not of.refused({name: value})]
    section[name] = copy.deepcopy(draw.choice(values))


def _loss(draw: random.Random, options: Section) -> None:
    """One more loss, or another one."""
    from basicsr.utils.registry import LOSS_REGISTRY

    name = draw.choice(["pixel_opt", "perceptual_opt", "x_opt", "style_opt"])
    section = {"type": draw.choice(sorted(LOSS_REGISTRY.keys())), "loss_weight": draw.choice([0, 1, -1.0, 1e9])}
    if draw.random() < 0.5:
        section.update(draw.choice([{"reduction": "none"}, {"reduction": "sum"}, {"target": "teacher"}, {"pool": 2},
                                    {"output_of": "teacher"}, {"start_iter": 2}, {"layers": ["block_1"]}]))  # fmt: skip
    options["train"][name] = section


def _network(draw: random.Random, options: Section) -> None:
    """Another argument of the network, as its constructor has it."""
    import inspect

    from basicsr.utils.registry import ARCH_REGISTRY

    section = options["network_g"].get("backbone", options["network_g"])
    parameters = inspect.signature(dict(iter(ARCH_REGISTRY))[section["type"]]).parameters
    section[draw.choice(sorted(parameters))] = draw.choice(
        [1, 2, 3, 4, 8, 0, -1, 0.5, True, False, "x", [1, 2, 3], None]
    )


_CHANGES: tuple[Callable[[random.Random, Section], None], ...] = (
    _drop, *[_replace] * 4, _retype, *[_copy] * 3,
    *[_likely] * 8, *[_loss] * 3, *[_network] * 2,
)  # fmt: skip


def mutant(options: Section, seed: int) -> str:
    """The text of an option file, one to three changes away from ``options``; the same for the same seed."""
    draw, changed = random.Random(seed), copy.deepcopy(options)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        with suppress(LookupError, ValueError, ArithmeticError, TypeError, AttributeError):  # nothing left to change so
            draw.choice(_CHANGES)(draw, changed)
    train = changed.get("train")
    if isinstance(train, dict) and train.get("compile"):
        train["compile"] = False  # it takes minutes
    lines = yaml.dump(changed, Dumper=_Dumper, sort_keys=False).splitlines()
    if draw.random() < 0.05:
        number = draw.randrange(len(lines))
        lines.insert(number, lines[number])
    return "\n".join(lines) + "\n"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


# --- runs -------------------------------------------------------------------------------------------------------------


class _Enough(BaseException):
    """Two iterations have run."""


def outcome(file: Path, phase: str) -> tuple[str, str]:
    """``ran``, ``refused`` or ``failed``, and what was printed, of ``dscsr train|test -opt file`` in its folder."""
    done = forks.finished(partial(_run, file.name, phase), file.parent)
    text, code = done.stdout + done.stderr, done.returncode
    told = code == 1 and "dscsr: error: " in text and "Traceback (most recent call last)" not in text
    return ("ran" if code == 0 else "refused" if told else "failed"), f"{text}\nexit code {code}"


def _run(name: str, phase: str) -> int:
    from basicsr.data.prefetch_dataloader import CPUPrefetcher

    from dscsr_model import cli

    given, following = [0], CPUPrefetcher.next

    def next_batch(self: Any) -> Any:
        batch = following(self)
        given[0] += batch is not None
        if given[0] > 2:
            raise _Enough
        return batch

    CPUPrefetcher.next = next_batch
    signal.alarm(MOST_SECONDS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY,) * 2)
    try:
        return cli.main([phase, "-opt", name])
    except _Enough:
        return 0
