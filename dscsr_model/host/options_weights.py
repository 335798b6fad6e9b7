"""Networks and weights of an option file: can the network be built, is its scale the data's, do the weights fit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.arguments import contradiction
from dscsr_arch.checkpoint import mismatch, read_pickle, read_state_dict
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.metadata import described
from dscsr_arch.weight_files import WeightFile, read_weight_file
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, listed
from dscsr_model.host.options_networks import build_network
from dscsr_model.host.options_registry import Registries, find
from dscsr_model.host.options_sizes import check_sizes
from dscsr_model.host.options_structure import Run
from dscsr_model.host.options_teacher import put_lora
from dscsr_model.training.checkpoints import iterations, newest_whole

_STATE_KEYS = ("epoch", "iter", "optimizers", "schedulers")


def check_networks(run: Run, registries: Registries) -> nn.Module | None:
    """Report networks that cannot be built, a scale that is not the data's, and weights that are not theirs.

    Returns:
        ``network_g`` with its LoRA, perhaps without memory for its weights; None where it is faulty or not known.
    """
    network_g = None
    resumed = _check_resume(run) if run.is_train else None
    for name, section in run.options.items():
        key = (str(name),)
        if not str(name).startswith("network_") or not isinstance(section, dict) or run.report.has(*key):
            continue
        kind = section.get("type")
        network_class = find(registries.networks, kind)
        if network_class is None:
            continue
        check_scale(key, section, network_class, run)
        check_channels(key, section, network_class, run)
        weights = run.section("path").get(f"pretrain_{name}")
        label = str(name).removeprefix("network_")
        network = None
        known = kind in schema.IMAGE_NETWORKS or (name == "network_g" and run.known_model in schema.ON_DEVICE)
        if not run.report.has(*key) and (known or weights is not None):
            network = build_network(key, run.constructors(key, section), network_class, known, run.report)
            if network is not None and name == "network_g":
                check_sizes(network, run)
                network = network_g = put_lora(network, run)
                _check_adapters(network, section, run)
        if resumed is not None and network is not None:
            _check_resumed_weights(label, resumed, network, run)
        if isinstance(weights, str) and resumed is None and not run.report.has("path", f"pretrain_{name}"):
            _check_weights(Path(weights).expanduser(), label, network, run)
    return network_g


def check_scale(key: Key, section: Mapping[str, Any], network_class: Any, run: Run) -> None:
    """A network tells its scale by an argument; of networks that we do not know, `upscale` only, and only if given."""
    scale, known = run.options.get("scale"), section["type"] in schema.IMAGE_NETWORKS
    if key not in (("network_g",), ("network_g", "backbone")) or not isinstance(scale, int) or run.report.has("scale"):
        return
    for name in ("upscale", "scale") if known else ("upscale",):
        parameter = inspect.signature(network_class).parameters.get(name)
        value = section.get(name, parameter.default if known and parameter is not None else None)
        if isinstance(value, int) and not isinstance(value, bool) and value != scale:
            got = f"{value}" if name in section else f"{value}, its default"
            remedy = f"Write `{name}: {scale}`, or change `scale:` and the data to {value}."
            run.report.add((*key, name), f"{scale}, as `scale: {scale}` at the top says", got, remedy)


def check_channels(key: Key, section: Mapping[str, Any], network_class: Any, run: Run) -> None:
    """Channels in and out must be those of the images. Where the datasets differ, it is theirs to change."""
    if key not in (("network_g",), ("network_g", "backbone")) or section["type"] not in schema.IMAGE_NETWORKS:
        return
    for name in ("num_in_ch", "num_out_ch"):
        parameter = inspect.signature(network_class).parameters.get(name)
        value = section.get(name, parameter.default if parameter is not None else None)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        others = {dataset: channels for dataset, channels in run.channels.items() if channels != value}
        if others and len(set(run.channels.values())) == 1:
            expected = f"{next(iter(others.values()))}, the channels of the datasets' images"
            got = f"{value}" if name in section else f"{value}, its default"
            remedy = "Write it so, or change the images: `dscsr prepare --color`, and `color` of PairedCropDataset."
            run.report.add((*key, name), expected, got, remedy)
        else:
            for dataset, channels in others.items():
                expected = f"images of {value} channel{'s' if value > 1 else ''}, as the network's `{name}` says"
                remedy = _other_channels(str(run.known_datasets[dataset]), value)
                run.report.add(("datasets", str(dataset)), expected, f"{channels}", remedy)


def _other_channels(dataset: str, wanted: int) -> str:
    """How a dataset comes to give them."""
    if dataset == "PairedCropDataset":
        return f"Set `color: {'gray' if wanted == 1 else 'rgb'}`."
    if wanted != 1:
        return "Remove its `color: y`."
    if dataset == "SingleImageDataset":
        return "Leave it out, and enlarge its images by `dscsr upscale`, which gives a gray network each channel."
    return "Take `type: PairedCropDataset` with `color: gray` (BasicSR's `y` has levels from 16 to 235)."


def _check_weights(file: Path, label: str, network: nn.Module | None, run: Run) -> None:
    path, report, key = run.section("path"), run.report, ("path", f"pretrain_network_{label}")
    if not file.is_file():
        got = f"'{file}', which is a folder" if file.is_dir() else f"'{file}', which does not exist"
        report.add(key, "a weight file", got, f"Correct the path (taken from {Path.cwd()}), or write `~`.")
        return
    if not run.basicsr_builds:
        return  # another plugin may read other files, and in another way
    strict, wanted = path.get(f"strict_load_{label}", True), path.get(f"param_key_{label}", "params")
    try:
        content_keys = _wrapper_keys(file)
        if run.known_model in schema.ON_DEVICE:  # they read every dialect, as EfficientSRModel.load_network does
            param_key = wanted if wanted in content_keys else None
        else:
            param_key = _stock_param_key(file, label, wanted, content_keys, run)
        if report.has("path", f"param_key_{label}") or report.has(*key):
            return
        content = read_weight_file(file, param_key)
    except WeightsError as exc:
        report.add_error(key, exc)
        return
    if network is None or strict is False:
        return
    with torch.random.fork_rng(devices=[]):
        fault = mismatch(network, content.weights)
    if fault is not None:
        kind = run.options[f"network_{label}"]["type"]
        layers = fault.strip().replace("\n", "\n     ")
        remedy = "Take weights of this network, or give it the arguments that the weights were trained with."
        report.add(key, f"weights of this {kind}", f"'{file}', whose layers differ:\n     {layers}", remedy)
    _check_metadata(key, file, content, label, f" `strict_load_{label}: false` loads it all the same.", run)


def _check_metadata(key: Key, file: Path, content: WeightFile, label: str, otherwise: str, run: Run) -> None:
    """What the file says of its network, and shapes do not show, must be what the options say."""
    section = run.constructors((f"network_{label}",), run.section(f"network_{label}"))
    try:
        unlike = contradiction(content, file, described(section)[0])
    except WeightsError as exc:
        run.report.add_error(key, exc)
    except DscsrError:
        return  # of a network of which nothing can be said before it is built
    else:
        if unlike:
            remedy = f"Give `network_{label}` what they were trained with, or take other weights.{otherwise}"
            run.report.add(
                key, f"weights trained as `network_{label}` says", f"'{file}', trained with {unlike}", remedy
            )


def _check_adapters(network: nn.Module | None, section: Mapping[Any, Any], run: Run) -> None:
    """LoRA that a training starts from: `put_lora` has seen whether it fits."""
    lora = section.get("lora")
    if network is not None and isinstance(lora, dict) and lora.get("weights"):
        file = Path(lora["weights"]).expanduser()
        _check_metadata(("network_g", "lora", "weights"), file, read_weight_file(file), "g", "", run)


def _wrapper_keys(file: Path) -> list[str]:
    """Keys of the file that hold weights (params, params_ema, …); none for a file of bare weights."""
    read_state_dict(file)  # says what is wrong with a file that is missing, truncated or something else
    if file.suffix.lower() == ".safetensors":
        return []
    held = {name: value for name, value in read_pickle(file).items() if isinstance(value, dict)}
    # The first entry tells: a file can have the same mapping under any number of names, too many to look through.
    return [str(name) for name, value in held.items() if isinstance(next(iter(value.values()), None), Tensor)]


def _stock_param_key(file: Path, label: str, wanted: Any, there: list[str], run: Run) -> str | None:
    """The key that BasicSR's ``load_network`` would take out of the file; reports when it would stop."""
    key, report = ("path", f"param_key_{label}"), run.report
    if file.suffix.lower() == ".safetensors":
        remedy = "Convert it: torch.save({'params': load_file(path)}, 'weights.pth')."
        report.add(("path", f"pretrain_network_{label}"), "a .pth file, which BasicSR reads", f"'{file}'", remedy)
    elif wanted is None:
        if there:
            got = f"`~`, while the file wraps its weights in {listed(there)}"
            report.add(key, "a key of the weight file", got, f"Write `param_key_{label}: {there[0]}`.")
        elif run.is_train and label == "g" and run.section("train").get("ema_decay", 0):
            # init_training_settings loads the file once more, for the averaged weights, by the key params_ema
            got = f"'{file}' without them, and `ema_decay` averages weights"
            remedy = "Wrap it: torch.save({'params': torch.load(path)}, 'wrapped.pth'); or set `ema_decay: 0`."
            report.add(("path", f"pretrain_network_{label}"), "weights under `params` or `params_ema`", got, remedy)
    elif wanted not in there and "params" in there:
        return "params"
    elif wanted not in there:
        got = f"`{wanted}`, while the file has {listed(there) if there else 'its weights unwrapped'}"
        remedy = f"Write `param_key_{label}: {there[0] if there else '~'}`."
        report.add(key, "a key of the weight file", got, remedy)
    return None if wanted is None else str(wanted)


def _check_resume(run: Run) -> str | None:
    """Check the state to resume from; its iteration when there is one: BasicSR then takes the run's own weights."""
    experiment = Path("experiments", str(run.options.get("name")))
    if run.auto_resume:
        states = experiment / "training_states"
        if not iterations(states):
            return None
        newest, passed_over = newest_whole(states, experiment / "models")
        if newest is None:
            got = f"none in '{states}' that opens with its weights. {passed_over[0]}"
            run.report.add(("path", "resume_state"), "a whole checkpoint", got, "Move the folder away to train anew.")
            return ""
        return newest.stem
    state, key = run.section("path").get("resume_state"), ("path", "resume_state")
    if not isinstance(state, str) or run.report.has(*key):
        return None
    file = Path(state).expanduser()
    if not file.is_file():
        remedy = "Correct the path, write `~` to start anew, or use --auto_resume."
        run.report.add(key, "a training state", f"'{file}', which does not exist", remedy)
        return ""
    try:
        content = read_pickle(file)
    except WeightsError as exc:
        run.report.add_error(key, exc)
        return ""
    if not isinstance(content, dict) or not set(_STATE_KEYS) <= set(content):
        words = f"a training state (with {listed(_STATE_KEYS)})"
        got = f"'{file}', which is none"
        run.report.add(key, words, got, "Name a file of experiments/<name>/training_states/, or an older one.")
        return ""
    _resumed_weights(str(content["iter"]), experiment, key, run)
    return str(content["iter"])


def _check_resumed_weights(label: str, step: str, network: nn.Module, run: Run) -> None:
    """The run's own weights must fit the network of the options, which may have been changed since."""
    file = Path("experiments", str(run.options.get("name")), "models", f"net_{label}_{step}.pth")
    if not file.is_file() or run.section("path").get(f"strict_load_{label}", True) is False:
        return
    try:
        content = read_weight_file(file, "params")
    except WeightsError as exc:
        run.report.add_error(("path", "resume_state"), exc)
        return
    fault = mismatch(network, content.weights)
    if fault is not None:
        got = f"'{file}' of another network:\n     {fault.strip()}\n    "
        remedy = f"Give `network_{label}` the values of the run to resume, or give this run another `name`."
        run.report.add(("path", "resume_state"), f"weights of `network_{label}`", got, remedy)
    _check_metadata(("path", "resume_state"), file, content, label, "", run)


def _resumed_weights(step: str, experiment: Path, key: Key, run: Run) -> None:
    """BasicSR resumes with the weights of ``experiments/<name>``, whatever ``pretrain_network_*`` says."""
    ignored = run.section("path").get("ignore_resume_networks") or ()
    for name in run.options:
        file = experiment / "models" / f"net_{str(name).removeprefix('network_')}_{step}.pth"
        if str(name).startswith("network_") and name not in ignored and not file.is_file():
            remedy = "Is `name` that of the run to continue? An older state with its weights may be there."
            run.report.add(key, f"the weights beside state {step}", f"no '{file}'", remedy)
