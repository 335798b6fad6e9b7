"""Check a submission's file where there is nothing but Python and torch, as a script that is run there.

    python -I -S bare_check.py < JOB.json > ANSWER.json

Like what it checks, it is for Python 3.9 and torch 1.13. It refuses to import dscsr and BasicSR, imports the file,
loads the weights strictly, compares with what the trained network gave, counts, and takes the time.
"""

import ast
import copy
import json
import platform
import runpy
import statistics
import sys
import time
from typing import Any

FORBIDDEN = ("basicsr", "dscsr_arch", "dscsr_model", "dscsr_autoload")


class Refuse:
    """Let nothing of dscsr or BasicSR be imported, wherever it is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse ``name``, or leave it to the next finder."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not there when the challenge runs this file")


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; returns the answer as JSON's types."""
    sys.meta_path.insert(0, Refuse())
    sys.path += job["packages"]
    hidden = [name for name in FORBIDDEN if not importable(name)]
    import torch

    torch.manual_seed(0)
    with open(job["file"], encoding="utf-8") as file:
        ast.parse(file.read(), feature_version=(3, 9))
    network = load(job["file"], job["class_name"], job["weights"])
    answer: dict[str, Any] = {"hidden": hidden, "python": platform.python_version(), "torch": torch.__version__}
    with torch.no_grad():
        examples = torch.load(job["examples"], weights_only=True)["examples"]
        answer.update(compare(network, examples, job["border"]))
        answer.update(count(network, job["size"]))
        if job["seconds"] > 0:
            answer.update(take_time(network, load(job["baseline"], "Baseline"), job["size"], job["seconds"]))
    return answer


def importable(name: str) -> bool:
    """Whether a module can be imported here."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def load(path: str, class_name: str, weights: str = "") -> Any:
    """Import the file alone, build its network without arguments, load its weights strictly."""
    import torch

    network = runpy.run_path(path)[class_name]()  # leaves no __pycache__
    if weights:
        network.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    return network.eval()


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


def count(network: Any, size: list[int]) -> dict[str, int]:
    """Parameters, operations (a multiplication with its addition), activations, convolutions, as the challenge does."""
    import torch

    found = {"flops": 0, "activations": 0, "convolutions": 0}
    part = 8  # of each side: these networks do the same at every pixel

    def add(module: Any, _: Any, output: Any) -> None:
        found["flops"] += output[0, 0].numel() * module.weight.numel() * part**2
        found["activations"] += output.numel() * part**2
        found["convolutions"] += 1

    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add)
    network(torch.zeros(1, 3, *(side // part for side in size)))
    return {"parameters": sum(parameter.numel() for parameter in network.parameters()), **found}


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
    json.dump(main(json.load(sys.stdin)), sys.stdout)
