"""ncnn models: two files, any height and width, checked against torch with ncnn on the CPU."""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError, UnavailableError, why_not_imported
from dscsr_arch.metadata import describe
from dscsr_arch.quantized_conv import require_full_precision
from dscsr_model.export.programs import prepared, translating
from dscsr_model.inference.ncnn_engine import INSTALL, MARK, open_net, rehearse, require_ncnn, run_net, weights_beside

_NAMES = {"in0": "data", "out0": "output"}
"""What pnnx calls the ends of a network, and what all of realesrgan-ncnn-vulkan, Upscayl and chaiNNer look for."""
_SMALLEST = 2**-14
"""Of float16 but for subnormal numbers, which pnnx takes for 0."""
_UPSCAYL_SCALES = (1, 2, 3, 4, 8, 16)


def to_ncnn(network: nn.Module, path: Path, *, half: bool = False) -> None:
    """Write ``network`` for ncnn: the graph ``name.param``, which maps ``data`` to ``output``, and ``name.bin``.

    Args:
        network: Any that `load_model` gives; it stays as it is.
        path: ``*.param``. Existing files are replaced.
        half: Keep the weights of convolutions in float16, `rounded`. ncnn computes in what whoever runs it chooses.

    Raises:
        DscsrError: Packages are missing, or pnnx cannot translate the network.
    """
    require_ncnn()
    _program()
    require_full_precision(network, "ncnn")
    network, example, metadata = prepared(network, half=False)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # hidden there, the next export removes what is left
        param, weights = _translate(rounded(network) if half else network, example[:1], half, Path(folder))
    path.write_text(_renamed(param), "utf-8")
    weights_beside(path).write_bytes(weights + MARK + json.dumps(metadata).encode())


def run_ncnn(path: Path) -> Callable[[Tensor], Tensor]:
    """The files at ``path`` as a function of images, run by ncnn on the CPU in float32."""
    rehearse(path)
    return partial(run_net, open_net(path, torch.get_num_threads()))


def upscayl_scale(stem: str) -> int:
    """The scale that Upscayl's program reads off a file's name: the first of x1, 1x, x2, 2x, … that is in it, or 4."""
    return next((n for n in _UPSCAYL_SCALES if f"x{n}" in stem or f"{n}x" in stem), 4)


def named_for_upscayl(path: Path, network: nn.Module) -> Path:
    """``path``, or one that tells Upscayl the scale of ``network``."""
    scale = describe(deployable(network)).arguments.get("upscale")
    return path if scale in (None, upscayl_scale(path.stem)) else path.with_stem(f"{path.stem}_x{scale}")


@torch.no_grad()
def rounded(network: nn.Module) -> nn.Module:
    """A copy whose kernels are exact in float16, rounded so that less of an image is lost than by rounding each weight.

    The error of each weight is handed on to the next smaller one of the same kernel of the same pair of channels
    (error diffusion, as in dithering). Neighbouring pixels are nearly alike, so what counts is a kernel's sum, and that
    is off by half a step of its smallest weight instead of all steps together.
    """
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            kernels = layer.weight.flatten(2).double()
            order = kernels.abs().argsort(-1, descending=True)
            sorted_ = kernels.gather(-1, order)
            error = torch.zeros_like(sorted_[..., 0])
            for k in range(sorted_.shape[-1]):
                wanted = sorted_[..., k] + error
                small = wanted.abs() < _SMALLEST
                sorted_[..., k] = torch.where(small, (wanted / _SMALLEST).round() * _SMALLEST, wanted.half())
                error = wanted - sorted_[..., k]
            layer.weight.copy_(kernels.scatter(-1, order, sorted_).view_as(layer.weight))
    return network


class _ShiftsAsNormalisations(TorchFunctionMode):
    """Add a mean of a network by a batch normalisation: chaiNNer refuses ncnn's layer of constants."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        held = (each for module in network.modules() for each in vars(module).values())  # of some it is no buffer
        means = (*network.parameters(), *network.buffers(), *(each for each in held if isinstance(each, Tensor)))
        self.means = {mean.data_ptr() for mean in means if mean.dim() == 4 and mean.shape[1] == mean.numel()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sign = {"add": 1, "sub": -1}.get(getattr(func, "__name__", "").strip("_"))
        if sign and not kwargs and isinstance(args[1], Tensor) and args[1].data_ptr() in self.means:
            shifts = [-sign * value for value in args[1].flatten().tolist()]  # constants, not traced
            return F.batch_norm(args[0], torch.tensor(shifts), torch.ones(len(shifts)), eps=0.0)
        return func(*args, **(kwargs or {}))


def _translate(network: nn.Module, example: Tensor, half: bool, folder: Path) -> tuple[str, bytes]:
    """Graph and weights by pnnx, a program of its own, in a folder of its own: it leaves eight files."""
    script = BytesIO()  # on a full disk torch's own writer ends the process
    with translating("TorchScript"), torch.no_grad(), _ShiftsAsNormalisations(network):
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), script)
    _, channels, height, width = example.shape
    step = int(width - height)  # of two sizes that it may have, pnnx finds which sides are free
    shapes = [f"[1,{channels},{height + more},{width + 2 * more}]f32" for more in (0, step)]
    Path(folder, "net.pt").write_bytes(script.getbuffer())
    words = ["net.pt", f"inputshape={shapes[0]}", f"inputshape2={shapes[1]}", f"fp16={int(half)}"]
    try:
        done = subprocess.run([_program(), *words], cwd=folder, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UnavailableError("pnnx, a program, to run", error, "Run `pip install --force-reinstall pnnx`.") from error
    try:
        param, weights = Path(folder, "net.ncnn.param").read_text("utf-8"), Path(folder, "net.ncnn.bin").read_bytes()
    except OSError as error:
        said = next(reversed((done.stderr or done.stdout).strip().splitlines()), "nothing")
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise DscsrError("pnnx to translate the network", f"{ended} from it, and: {said}", _OTHERS) from error
    kinds = {line.split()[0] for line in param.splitlines()[2:]}
    if unknown := sorted(kind for kind in kinds if "." in kind or ":" in kind):
        raise DscsrError("a network of layers that ncnn has", f"one with {', '.join(unknown)}", _OTHERS)
    return param, weights


def _program() -> str:
    """Where pnnx is; UnavailableError if it is not installed."""
    try:
        from pnnx import EXEC_PATH
    except Exception as error:  # a broken package may raise anything
        raise UnavailableError("pnnx, which writes ncnn files", why_not_imported(error), INSTALL) from error
    return str(EXEC_PATH)


_OTHERS = "Nothing is kept. Choose another format: chaiNNer, for instance, runs --format onnx, too."


def _renamed(param: str) -> str:
    """The graph with the ends' names that programs look for."""
    first, second, *lines = param.splitlines()
    lines = [" ".join(_NAMES.get(word, word) for word in line.split(" ")) for line in lines]
    return "\n".join([first, second, *lines, ""])
