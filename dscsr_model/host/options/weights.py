"""Networks and weights of an option file: can the network be built, do the weights fit, does a state to resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.arguments import trained_otherwise
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.deployable import fused
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.metadata import describe, described
from dscsr_arch.quantized_conv import bits_by_layer, inject_as
from dscsr_arch.weight_files import WeightFile, check_finite, read_pickle, read_weight_file, state_dict_diff
from dscsr_model.host.options.faults import Key
from dscsr_model.host.options.networks import (
    build_network,
    check_against_data,
    check_sizes,
    is_image_network,
    put_quantizers,
    quietly_built,
)
from dscsr_model.host.options.run import Run, find
from dscsr_model.host.options.teachers import put_lora
from dscsr_model.options.section import listed
from dscsr_model.training.checkpoints import iterations, newest_whole

_STATE_KEYS = ("epoch", "iter", "optimizers", "schedulers")
_RESUME: Key = ("path", "resume_state")


def check_networks(run: Run) -> nn.Module | None:
    """Report networks that cannot be built, that are not the data's, and weights that are not theirs.

    Returns:
        ``network_g`` with its LoRA, perhaps without memory for its weights; None where it is faulty or not known.
    """
    network_g = None
    resumed: str | None = ""  # also of a state with a fault: BasicSR takes the run's own weights
    with run.report.catching(_RESUME):
        resumed = _iteration_to_resume(run) if run.is_train else None
    for name, section in run.options.items():
        key = (str(name),)
        if not str(name).startswith("network_") or not isinstance(section, dict) or run.report.has(*key):
            continue
        network_class = find(run.registries.ARCH_REGISTRY, section.get("type"))
        if network_class is None:
            continue
        if name == "network_g":
            check_against_data(key, network_class, run)
        weights = run.section("path").get(f"pretrain_{name}")
        label = str(name).removeprefix("network_")
        network = None
        known = is_image_network(section["type"]) or (name == "network_g" and run.ours)
        if not run.report.has(*key) and (known or weights is not None):
            network = build_network(key, run.arguments(key), network_class, known, run.report)
            if network is not None and name == "network_g":
                check_sizes(network, run)
                with quietly_built():
                    network = network_g = put_lora(network, run)
                _check_adapters(network, run)
                if network is not None:
                    network = network_g = put_quantizers(network, run)
        if resumed is not None and network is not None:
            _check_resumed_weights(label, resumed, network, run)
        if isinstance(weights, str) and resumed is None and not run.report.has("path", f"pretrain_{name}"):
            _check_weights(Path(weights).expanduser(), label, network, run)
    return network_g


def _check_weights(file: Path, label: str, network: nn.Module | None, run: Run) -> None:
    path, report, key = run.section("path"), run.report, ("path", f"pretrain_network_{label}")
    if not file.is_file():
        got = f"'{file}', which is a folder" if file.is_dir() else f"'{file}', which does not exist"
        report.add(key, "a weight file", got, f"Correct the path (taken from {Path.cwd()}), or write `~`.")
        return
    if not run.basicsr_builds:
        return  # another plugin may read other files, and in another way
    wanted = path.get(f"param_key_{label}", "params")
    with report.catching(key):
        content_keys = _wrapper_keys(file)
        if run.ours:  # they read every dialect, as EfficientSRModel.load_network does
            param_key = wanted if wanted in content_keys else None
        else:
            param_key = _stock_param_key(file, label, wanted, content_keys, run)
        if report.has("path", f"param_key_{label}") or report.has(*key):
            return
        content = read_weight_file(file, param_key)
        check_finite(content.weights, file)
        if network is None or path.get(f"strict_load_{label}", True) is False:
            return
        if not run.is_train and bits_by_layer(content.weights):
            inject_as(fused(network), content.weights)  # as the model will
        if layers := _difference(network, content):
            remedy = "Take weights of this network, or give it the arguments that the weights were trained with."
            kind = run.section(f"network_{label}")["type"]
            raise WeightsError(f"weights of this {kind}", f"'{file}', whose layers differ:\n     {layers}", remedy)
        _check_metadata(file, content, network, run, label, f" `strict_load_{label}: false` loads it all the same.")


def _difference(network: nn.Module, content: WeightFile) -> str:
    with torch.random.fork_rng(devices=[]):
        fault = state_dict_diff(network, content.weights)
    return (fault or "").strip().replace("\n", "\n     ")


def _check_metadata(
    file: Path, content: WeightFile, network: nn.Module, run: Run, label: str = "g", otherwise: str = ""
) -> None:
    """Raise `WeightsError` unless the file says of its network, where shapes do not show it, what the options say."""
    section = {"type": run.section(f"network_{label}")["type"], **run.arguments((f"network_{label}",))}
    try:
        metadata = describe(network) if isinstance(network, CSSRNet) else described(section)[0]
    except DscsrError:
        return  # of a network of which nothing can be said before it is built
    if unlike := trained_otherwise(content, file, metadata):
        remedy = f"Give `network_{label}` what they were trained with, or take other weights.{otherwise}"
        raise WeightsError(f"weights trained as `network_{label}` says", f"'{file}', {unlike}", remedy)


def _check_adapters(network: nn.Module | None, run: Run) -> None:
    """LoRA that a training starts from: `put_lora` has seen whether it fits."""
    weights = run.section("network_g", "lora").get("weights")
    if network is not None and weights:
        file = Path(weights).expanduser()
        with run.report.catching(("network_g", "lora", "weights")):
            _check_metadata(file, read_weight_file(file), network, run)


def _wrapper_keys(file: Path) -> list[str]:
    """Keys of the file that hold weights (params, params_ema, …); none for a file of raw weights."""
    if file.suffix.lower() == ".safetensors":
        return []
    content = read_pickle(file)
    held = {n: value for n, value in content.items() if isinstance(value, dict)} if isinstance(content, dict) else {}
    # The first entry tells: a file can have the same mapping under any number of names, too many to look through.
    return [str(name) for name, value in held.items() if isinstance(next(iter(value.values()), None), Tensor)]


def _stock_param_key(file: Path, label: str, wanted: Any, there: list[str], run: Run) -> str | None:
    """The key that BasicSR's ``load_network`` would take out of the file; reports when it would stop."""
    key, report = ("path", f"param_key_{label}"), run.report
    if not there:
        read_weight_file(file)  # says what is wrong with a file that holds no weights at all
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
        report.add(key, "a key of the weight file", got, f"Write `param_key_{label}: {there[0] if there else '~'}`.")
    return None if wanted is None else str(wanted)


# --- resuming ---------------------------------------------------------------------------------------------------------


def _iteration_to_resume(run: Run) -> str | None:
    """Of the state to resume from, which is looked at; None where training begins anew."""
    experiment = Path("experiments", str(run.options.get("name")))
    if run.auto_resume:
        states = experiment / "training_states"
        if not iterations(states):
            return None
        newest, passed_over = newest_whole(states, experiment / "models")
        if newest is None:
            got = f"none in '{states}' that opens with its weights. {passed_over[0].removesuffix('.')}"
            raise WeightsError("a whole checkpoint", got, "Move the folder away to train anew.")
        return newest.stem
    state = run.section("path").get("resume_state")
    if not isinstance(state, str) or run.report.has(*_RESUME):
        return None
    file = Path(state).expanduser()
    if not file.is_file():
        remedy = "Correct the path, write `~` to start anew, or use --auto_resume."
        raise WeightsError("a training state", f"'{file}', which does not exist", remedy)
    content = read_pickle(file)
    if not isinstance(content, dict) or not set(_STATE_KEYS) <= set(content):
        remedy = "Name a file of experiments/<name>/training_states/, or an older one."
        raise WeightsError(f"a training state (with {listed(_STATE_KEYS)})", f"'{file}', which is none", remedy)
    step, ignored = str(content["iter"]), run.section("path").get("ignore_resume_networks") or ()
    for name in run.options:  # BasicSR resumes with the weights of the run, whatever `pretrain_network_*` says
        weights = _weights_of_run(str(name).removeprefix("network_"), step, run)
        if str(name).startswith("network_") and name not in ignored and not weights.is_file():
            remedy = "Is `name` that of the run to continue? An older state with its weights may be there."
            raise WeightsError(f"the weights beside state {step}", f"no '{weights}'", remedy)
    return step


def _weights_of_run(label: str, step: str, run: Run) -> Path:
    models = run.section("path").get("models") or Path("experiments", str(run.options.get("name")), "models")
    return Path(models, f"net_{label}_{step}.pth")


def _check_resumed_weights(label: str, step: str, network: nn.Module, run: Run) -> None:
    """The run's own weights must fit the network of the options, which may have been changed since."""
    file = _weights_of_run(label, step, run)
    if not file.is_file() or run.section("path").get(f"strict_load_{label}", True) is False:
        return
    with run.report.catching(_RESUME):
        content = read_weight_file(file, "params")
        if layers := _difference(network, content):
            got = f"'{file}' of another network:\n     {layers}\n    "
            remedy = f"Give `network_{label}` the values of the run to resume, or give this run another `name`."
            raise WeightsError(f"weights of `network_{label}`", got, remedy)
        _check_metadata(file, content, network, run, label)
