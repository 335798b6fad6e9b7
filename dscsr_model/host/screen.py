"""The words of a run's console: what it is before it begins, what it leaves, the commands that go on from there."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dscsr_arch import quantized_conv
from dscsr_arch.architecture import architectures
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.deployable import deployable
from dscsr_arch.words import every, many
from dscsr_model import weights as shipped
from dscsr_model.training.stages import Stage, stage_at

Row = tuple[str, str]


@dataclass(frozen=True)
class Command:
    """The command that started this run.

    Attributes:
        program: In a process group, with what starts all of its processes on this machine.
        arguments: Without those that say nothing, and without ``--auto_resume``.
    """

    program: str
    arguments: tuple[str, ...]

    @classmethod
    def of_this_process(cls, imports: Sequence[str] = ()) -> Command:
        """As ``sys.argv`` has it, which for `dscsr` begins with ``dscsr train``; and what that has imported."""
        script, *given = sys.argv
        ours = script.startswith("dscsr ")
        arguments: list[str] = []
        words = iter(given)
        for word in words:
            value = next(words, "") if word in ("--launcher", "--local_rank", "--local-rank") else None
            if word == "--launcher" and value != "none":
                arguments += [word, str(value)]
            elif value is None and word != "--auto_resume":
                arguments.append(word)
        if imports:
            arguments += ["--import", *imports]
        if "TORCHELASTIC_RUN_ID" in os.environ:
            program = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', 1)} "
            program += script.replace("dscsr", "-m dscsr_model.cli", 1) if ours else shlex.quote(script)
        else:
            program = script if ours else f"python {shlex.quote(script)}"
        return cls(program, tuple(arguments))

    @property
    def option_file(self) -> str:
        """What it names as ``-opt``."""
        return dict(zip(self.arguments, self.arguments[1:], strict=False)).get("-opt", "")

    @property
    def to_resume(self) -> str:
        """Goes on from the newest checkpoint."""
        return f"{self.program} {shlex.join([*self.arguments, '--auto_resume'])}"


def table(title: str, rows: Sequence[Row]) -> str:
    """A title and lines of two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def shown(path: str | Path) -> str:
    """A path as one would type it here."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# --- before ---------------------------------------------------------------------------------------------------------


def rows(
    opt: Mapping[str, Any], model: Any, train_loader: Any, other_loaders: Sequence[Any], start: int, command: Command
) -> list[Row]:
    """What will happen, by the model and the data that were built."""
    found = [("network", _network(opt, model)), ("weights", _weights(opt, start))]
    if stored := getattr(model, "stored", None):
        found.append(("teacher", f"stored outputs of {stored.words}"))
    if teacher := getattr(model, "teacher", None):
        found.append(("teacher", ", ".join(_counted(network) for network in teacher.networks)))
    if train_loader is not None:
        found.append(("data", _data(opt, train_loader, stage_at(model.stages, start + 1))))
        found.append(("length", _length(opt, train_loader, start, model.stages)))
    sets = ", ".join(f"{loader.dataset.opt['name']} ({many(len(loader.dataset), 'image')})" for loader in other_loaders)
    metrics = ", ".join((opt.get("val") or {}).get("metrics") or {}) or "no metric"
    if train_loader is None:
        found.append(("data", f"{sets}: {metrics}"))
    elif sets and model.val.val_freq:
        found.append(("validation", f"{sets} {every(int(model.val.val_freq), 'iteration')}: {metrics}"))
    found.append(("computes", _computes(opt, model)))
    if train_loader is None:
        return [*found, ("writes", shown(opt["path"]["results_root"]))]
    folder, freq = shown(opt["path"]["experiments_root"]), opt["logger"]["save_checkpoint_freq"]
    found.append(("writes", f"{folder}, a checkpoint {every(int(freq), 'iteration')}"))
    return [*found, ("to resume", command.to_resume)]


def _network(opt: Mapping[str, Any], model: Any) -> str:
    network = model.get_bare_model(model.net_g)
    total, trained = _parameters(network), _parameters(network, trained=True)
    text = ", ".join(part for part in (_counted(network), quantized_conv.in_words(network)) if part)
    if isinstance(network, CSSRNet):
        widths = ", ".join(f"{width:g}" for width in network.widths)
        text = f"{opt['network_g']['backbone']['type']} with students of width {widths}, {many(total, 'parameter')}"
    elif type(network).__module__.startswith("dscsr_arch.") and callable(getattr(network, "fuse", None)):
        with torch.random.fork_rng(devices=[]):
            text += f", {_parameters(deployable(network)):,} when fused"
    if opt["is_train"] and trained < total:
        text += f"; {trained:,} are trained"
    return f"{text}, ×{opt['scale']}" if opt.get("scale") else text


def _parameters(network: nn.Module, trained: bool = False) -> int:
    return sum(each.numel() for each in network.parameters() if each.requires_grad or not trained)


def _counted(network: nn.Module) -> str:
    return f"{type(network).__name__}, {many(_parameters(network), 'parameter')}"


def _weights(opt: Mapping[str, Any], start: int) -> str:
    if start:
        return f"of iteration {start:,}, {shown(opt['path']['resume_state'])}"
    given = opt["path"].get("pretrain_network_g")
    if given and Path(given).parent == Path(shipped.__file__).parent:
        return f"{Path(given).stem}, which comes with dscsr"
    return shown(given) if given else "random"


def _data(opt: Mapping[str, Any], loader: Any, stage: Stage) -> str:
    section, ranks = opt["datasets"]["train"], opt["world_size"]
    batch = loader.batch_sampler.batch_size
    parts = [f"{section['name']}: {many(len(loader.dataset), 'pair')}"]
    if size := stage.gt_size or section.get("gt_size"):
        parts.append(f"patches of {size} pixels" + (f" (LQ {size // opt['scale']})" if opt.get("scale") else ""))
    parts.append(f"batch {batch * ranks}" + (f" ({batch} on each of {ranks} ranks)" if ranks > 1 else ""))
    return ", ".join(parts)


def _length(opt: Mapping[str, Any], loader: Any, start: int, stages: Sequence[Stage]) -> str:
    total = int(opt["train"]["total_iter"])
    text = f"{many(total, 'iteration')}, {many(math.ceil(total / max(len(loader), 1)), 'epoch')}"
    if len(stages) > 1:
        stage = stage_at(stages, start + 1)
        text = f"{many(total, 'iteration')} in {len(stages)} stages; stage {stage.number} ends with {stage.until:,}"
    if start:
        text += f"; {many(total - start, 'iteration')} left"
    if seconds := opt["train"].get("max_seconds"):
        return f"{seconds:g} seconds, at most {text}"
    return text


def _computes(opt: Mapping[str, Any], model: Any) -> str:
    if model.device.type == "cuda":
        parts = [torch.cuda.get_device_name(model.device)]
        if opt["world_size"] > 1:
            parts[0] += f", one of {opt['world_size']} ranks"
    else:
        parts = [f"CPU, {many(torch.get_num_threads(), 'thread')}"]
        parts += [f"{opt['world_size']} ranks"] if opt["world_size"] > 1 else []
    if opt["is_train"]:
        settings = model.settings
        parts.append(settings.precision)
        parts += [name for name in ("channels_last", "compile") if getattr(settings, name)]
    return ", ".join(parts)


# --- after ----------------------------------------------------------------------------------------------------------


def trained(opt: Mapping[str, Any], model: Any, log: str | None, command: Command, took: str) -> list[str]:
    """What a finished training has left, and commands for it."""
    models = Path(opt["path"]["models"])
    latest, best = _to_use(models, "latest"), _to_use(models, "best")
    found = [("latest", shown(latest))] if latest else []
    if best and (record := model.best.decided):
        found.append(
            ("best", f"{shown(best)}: {record['metric']} {record['val']:.4f} on {record['dataset']}, "
             f"iteration {record['iter']:,}")
        )  # fmt: skip
    found += [("log", shown(log))] if log else []
    lines = ["", table(f"Trained {opt['name']}: {many(model.iteration or 0, 'iteration')} in {took}.", found)]
    if chosen := best or latest:
        lines += ["Next:", *(f"  {line}" for line in _next(opt, model, chosen, command))]
    return lines


def interrupted(model: Any, command: Command) -> list[str]:
    """What is saved of a training that was stopped, or ended with an error, and how to go on."""
    by = f"Stopped by {signal.Signals(model.stopped_by).name}. " if model.stopped_by else ""
    if model.checkpoints.iteration is None:
        return [f"{by}No iteration was trained, and nothing is saved."] if by else []
    saved = f"Iteration {model.checkpoints.iteration:,} is saved in {shown(model.checkpoints.states.parent)}."
    return [f"{by}{saved} To go on:", f"  {command.to_resume}"]


def tested(opt: Mapping[str, Any], log: str | None) -> list[str]:
    """Where the images of a test are."""
    images = Path(opt["path"]["visualization"])
    found = [("images", shown(images))] if opt["val"].get("save_img") else []
    return [table("Written:", [*found, ("log", shown(log))])] if log else []


def _to_use(models: Path, label: str) -> Path | None:
    """The file to go on with: of LoRA the fused network, of a CSSR-Net its smallest student."""
    for kind in ("fused_g", "student_w*", "net_g"):
        if files := sorted(models.glob(f"{kind}_{label}.pth")):
            return files[0]
    return None


def _next(opt: Mapping[str, Any], model: Any, weights: Path, command: Command) -> Iterator[str]:
    file = shlex.quote(shown(weights))
    known = type(model.get_bare_model(model.net_g)).__name__ in architectures() or not weights.name.startswith("net_g")
    section = "" if known else f" -opt {shlex.quote(command.option_file)}"
    images = next((folder for folder in _validation_folders(opt) if folder.is_dir()), Path("photographs"))
    folder = "restored" if opt["scale"] == 1 else "enlarged"
    yield f"dscsr upscale -i {shlex.quote(shown(images))} -o {folder} -w {file}{section}"
    yield f"dscsr export {file} -o {shlex.quote(opt['name'])}.safetensors{section}"
    if weights.name.startswith("net_g") and (test := _test_command(opt, weights, Path(command.option_file))):
        yield test
    yield f"dscsr report {shlex.quote(opt['name'])}"


def _noises(opt: Mapping[str, Any]) -> set[str]:
    """What is added to the images that are measured."""
    return {str(section.get("noise")) for phase, section in opt["datasets"].items() if phase != "train"} or {"None"}


def _validation_folders(opt: Mapping[str, Any]) -> Iterator[Path]:
    for phase, section in opt["datasets"].items():
        if phase == "train" or section.get("noise") is not None:  # which is in no file
            continue
        if (root := section.get("dataroot_lq")) and not str(root).endswith(".lmdb"):
            yield Path(root)


def _test_command(opt: Mapping[str, Any], weights: Path, option_file: Path) -> str | None:
    """Tests these weights with an option file beside that of the training: one that is made for its results first."""
    found: list[tuple[bool, int, str, str]] = []
    ours = _noises(opt)
    for file in option_file.parent.glob("*test*.yml"):
        with suppress(OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):  # anybody's
            options = yaml.safe_load(file.read_text(encoding="utf-8"))
            given = str(options["path"].get("pretrain_network_g"))
            if all(options.get(name) == opt.get(name) for name in ("network_g", "scale")) and _noises(options) & ours:
                others = Path(given).parts[:-2] != Path(shown(weights)).parts[:-2]
                found.append((others, len(file.name), shown(file), given))
    if not found:
        return None
    *_, file_name, given = min(found)
    command = f"dscsr test -opt {shlex.quote(file_name)} --skip-missing"
    if given != shown(weights):
        command += f" --force_yml path:pretrain_network_g={shlex.quote(shown(weights))}"
    return command
