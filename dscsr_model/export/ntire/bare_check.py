"""Check a submission's file where there is nothing but Python and torch, as a script that is run there.

    python -I -S bare_check.py < JOB.json > ANSWER.json

Like what it checks, it is for Python 3.9 and torch 1.13. It refuses to import dscsr and BasicSR, imports the file,
loads the weights strictly, compares with what the trained network gave, counts, and takes the time. A network of the
user's own is the trained one itself: of that, it looks what the challenge needs of any (`try_out`).
"""

import ast
import copy
import json
import os
import platform
import runpy
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORBIDDEN = ("basicsr", "dscsr_arch", "dscsr_model", "dscsr_autoload")


class Refuse:
    """Let nothing of dscsr or BasicSR be imported, wherever it is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse ``name``, or leave it to the next finder."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not there when the challenge runs this file")


class StepError(Exception):
    """A step of the check that failed: its name, and what was said."""


@contextmanager
def step(name: str, file: str = "") -> Iterator[None]:
    """Give whatever the submission's code raises, which may be anything, the name of the step."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines, trace = [], error.__traceback__
        while trace is not None:
            lines += [trace.tb_lineno] if trace.tb_frame.f_code.co_filename == file else []
            trace = trace.tb_next
        where = f" (line {lines[-1]})" if lines else ""
        raise StepError(name, f"{type(error).__name__}: {error}{where}") from error


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; returns the answer as JSON's types."""
    sys.meta_path.insert(0, Refuse())
    sys.path += job["packages"]
    hidden = [name for name in FORBIDDEN if not importable(name)]
    import torch

    with open(job["file"], encoding="utf-8") as file:
        ast.parse(file.read(), feature_version=(3, 9))
    answer: dict[str, Any] = {"hidden": hidden, "python": platform.python_version(), "torch": torch.__version__}
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            return {**answer, **check(job)}
    except StepError as error:
        return {**answer, "failed": error.args}


def check(job: dict[str, Any]) -> dict[str, Any]:
    """The figures of a submission; `StepError` if it does not do what it has to."""
    import torch

    file, size, submission = job["file"], job["size"], (job["file"], job["class_name"], job["weights"])
    network = load(*submission)
    examples = torch.load(job["examples"], weights_only=True)["examples"]
    if job["own"]:
        images = [x for x, _ in examples]
        answer = try_out(network, load(*submission, first=torch.zeros_like(images[0])), images, file)
    else:
        answer = compare(network, examples, job["border"])
    with step("count", file):
        answer.update(count(network, size))
    if job["seconds"] > 0:
        with step("run", file):
            answer.update(take_time(network, load(job["baseline"], "Baseline"), size, job["seconds"]))
    return answer


def importable(name: str) -> bool:
    """Whether a module can be imported here."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def load(path: str, class_name: str, weights: str = "", first: Any = None) -> Any:
    """Import the file alone, build its network without arguments, load its weights strictly.

    With an image ``first``, the network takes that before it gets its weights, as when its constructor warms a GPU up.
    """
    import torch

    with step("import", path):
        network_class = runpy.run_path(path)[class_name]  # leaves no __pycache__
    with step("build", path):
        network = network_class()
        if not isinstance(network, torch.nn.Module):
            raise TypeError("the class is no torch.nn.Module")
    if first is not None:
        with step("run", path):
            network.eval()(first)
    if weights:
        with step("weights", path):
            network.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    return network.eval()


def try_out(network: Any, warmed: Any, images: list[Any], file: str) -> dict[str, Any]:
    """What the challenge needs of any network: images of four times the size, finite, whatever ran before.

    Beside that the PSNR between the images and the outputs, reduced to their size: low with weights or a range that
    are not the network's.
    """
    import torch

    differences, errors, largest = [], [], []
    for x in images:
        with step("run", file):
            y, again = network(x), warmed(x)
        expected = (*x.shape[:2], *(4 * side for side in x.shape[-2:]))
        if not isinstance(y, torch.Tensor) or tuple(y.shape) != expected:
            got = tuple(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
            raise StepError("size", f"{got} of an image {tuple(x.shape)}")
        if not y.isfinite().all():
            raise StepError("finite", f"{int((~y.isfinite()).sum())} of {y.numel()} that are infinite or none")
        differences.append((again - y).abs().max())
        largest.append(y.abs().max())
        if differences[-1] > 1e-4 * max(1.0, largest[-1].item()):
            raise StepError(
                "warm", f"images that differ by {differences[-1].item():.2e} (of at most {largest[-1].item():.2e})"
            )
        errors.append(((torch.nn.functional.avg_pool2d(y, 4) - x) / x.max()).square().mean())
    answer = {"inside": max(differences).item(), "at_border": 0.0, "largest": max(largest).item()}
    likeness = -10 * torch.stack(errors).mean().log10().item()
    return {**answer, "likeness": likeness, "sizes": [list(x.shape[-2:]) for x in images]}


def compare(network: Any, examples: list[Any], border: int) -> dict[str, Any]:
    """The largest differences from what the trained network gave, inside and at the border, and the largest value.

    In float64, where equal networks are equal: rounding does not hide a difference, nor make one.
    """
    import torch

    network = copy.deepcopy(network).double()
    inside, at_border, largest = [], [], []
    for x, expected in examples:
        difference = (network(x) - expected).abs()
        height, width = difference.shape[-2:]
        inside.append(difference[..., border : height - border, border : width - border].max())
        at_border.append(difference.max())
        largest.append(expected.abs().max())
    found = {"inside": inside, "at_border": at_border, "largest": largest}
    answer: dict[str, Any] = {name: torch.stack(values).max().item() for name, values in found.items()}  # NaN stays
    return {**answer, "sizes": [list(x.shape[-2:]) for x, _ in examples]}


def count(network: Any, size: list[int]) -> dict[str, Any]:
    """Parameters, operations (a multiplication with its addition), activations, convolutions, as the challenge does.

    That takes the operations from fvcore; where that is not installed, they are those of the convolutions alone.
    """
    import torch

    found = {"flops": 0, "activations": 0, "convolutions": 0}
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)

    def add(module: Any, inputs: Any, output: Any) -> None:
        found["flops"] += (output if isinstance(module, kinds[0]) else inputs[0])[0, 0].numel() * module.weight.numel()
        found["activations"] += output.numel()
        found["convolutions"] += 1

    handles = [each.register_forward_hook(add) for each in network.modules() if isinstance(each, kinds)]
    x = torch.zeros(1, 3, *size)
    network(x)
    for handle in handles:
        handle.remove()
    answer = {"parameters": sum(parameter.numel() for parameter in network.parameters()), **found}
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        return {**answer, "counted_by": ""}
    analysis = FlopCountAnalysis(network, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return {**answer, "flops": int(analysis.tracer_warnings("none").total()), "counted_by": "fvcore"}


def take_time(network: Any, baseline: Any, size: list[int], seconds: float) -> dict[str, Any]:
    """Median milliseconds of an image, of the network and of the baseline, measured in turns."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.rand(1, 3, *size, device=device)
    networks = [network.to(device), baseline.to(device)]
    times: list[list[float]] = [[], []]
    end = 0.0
    while time.perf_counter() < end + (10 * seconds if len(times[0]) < 3 else 0) or not times[0]:
        for each, own in zip(networks, times):  # noqa: B905 - `strict` came with Python 3.10
            start = time.perf_counter()
            each(x)
            if device == "cuda":
                torch.cuda.synchronize()
            if end:  # the first round warms up
                own.append(1000 * (time.perf_counter() - start))
        end = end or time.perf_counter() + seconds
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} thread(s)"
    runtime, baseline_runtime = map(statistics.median, times)
    return {"runtime_ms": runtime, "baseline_ms": baseline_runtime, "runs": len(times[0]), "machine": name}


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answer_to:
        os.dup2(2, 1)  # what a submission prints, in whatever way, is no answer
        json.dump(main(json.load(sys.stdin)), answer_to)
