"""ncnn files as ncnn opens them, in float32 on the CPU, after a rehearsal in a process where they can do no harm.

A network is two files: ``name.param``, the graph as text, and ``name.bin``, its weights. ncnn reads neither beyond what
it needs, so what shapes cannot tell stands at the end of the second one.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dscsr_arch.errors import DscsrError, UnavailableError, why_not_imported
from dscsr_model.inference import rehearsal
from dscsr_model.inference.engines import Engine, scale_of
from dscsr_model.inference.receptive_field import PROBE_SIDE, receptive_field
from dscsr_model.inference.rehearsal import Ask, Learned, Said

MARK = b"\ndscsr metadata\n"
"""Between the weights in ``name.bin`` and the metadata: JSON, names and texts."""
_LONGEST = 20_000
_AGAIN = "Export it again (dscsr export --format ncnn)."
INSTALL = "Run `pip install 'dscsr[ncnn]'`."
_OUT_OF_MEMORY = -100
_LIKE_RELU = ("ReLU", "Clip")
_HAS_ACTIVATION = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "InnerProduct")


def ncnn_engine(
    path: str | Path, *, device: str = "auto", precision: str = "fp32", threads: int | None = None
) -> Engine:
    """A network in an ncnn file, of ours or anybody's, run by ncnn on the CPU.

    Args:
        path: ``name.param``, with ``name.bin`` beside it: one input (C, H, W) and one output.
        device: ``auto`` or ``cpu``. Whoever wants a GPU by Vulkan has Upscayl and chaiNNer.
        precision: ``fp32``, whatever the weights are kept in.
        threads: None: as many as PyTorch uses.

    Raises:
        DscsrError: The files cannot be read or are of another kind; another device or precision; or no ncnn is here.
        SizeError: Its network takes no images of any size that was tried.
    """
    require_ncnn()
    if device not in ("auto", "cpu"):
        raise UnavailableError("--device auto or cpu for ncnn", device, "Choose one, or --backend torch.")
    if precision != "fp32":
        raise DscsrError("--precision fp32 for ncnn", precision, "Leave it out, or choose --backend torch.")
    path, threads = Path(path), threads or torch.get_num_threads()
    _, channels, sizes, shape, memory = rehearse(path)
    scale = scale_of(shape, channels, sizes.fit(PROBE_SIDE), str(path))
    seen = receptive_field(partial(run_net, open_net(path, threads, probe=True)), channels, sizes, memory)
    return Engine(partial(run_net, open_net(path, threads)), scale, channels, seen)


def rehearse(path: Path) -> Learned:
    """Get to know a file by running it on small images in a process of its own."""
    if missing := [str(file) for file in (path, weights_beside(path)) if not file.is_file()]:
        raise DscsrError("two files of ncnn, *.param and *.bin", f"no {' and no '.join(missing)}", "Check the path.")
    return rehearsal.rehearse(path, "ncnn", _inspect)


def weights_beside(path: Path) -> Path:
    """The file of the weights of the graph ``name.param``."""
    return path.with_suffix(".bin")


def open_net(path: Path, threads: int, *, probe: bool = False) -> Any:
    """Open a file of ours, or one that passed its rehearsal, to compute in float32.

    A ``probe`` is not the network: a NaN goes through it to all that depends on it, and to nothing else. It has other
    activations, as ncnn's ReLU takes a NaN for 0, and none of Winograd's convolutions, which sum blocks of pixels.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_winograd_convolution = not probe
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    failed = net.load_param_mem(_as_probe(path)) if probe else net.load_param(str(path))
    if failed or net.load_model(str(weights_beside(path))):
        raise DscsrError("ncnn to open it", "one that it cannot read", _AGAIN, path)
    return net


def run_net(net: Any, x: Tensor) -> Tensor:
    """What a net makes of images (B, C, H, W); RuntimeError if it fails."""
    import ncnn

    (name,), (result,) = net.input_names(), net.output_names()
    made = []
    for image in x.to(torch.float32).contiguous().numpy():
        with net.create_extractor() as extractor:
            given = ncnn.Mat(image).clone()  # layers may write into it; it has to live until the end
            extractor.input(name, given)
            code, mat = extractor.extract(result)
            if code:
                why = "not enough memory" if code == _OUT_OF_MEMORY else f"code {code}"
                raise RuntimeError(f"ncnn gives up on an image of {image.shape}: {why}")
            made.append(torch.from_numpy(np.array(mat)))
    return torch.stack(made)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts beside the weights of a file that dscsr wrote; nothing of another one. They may be anybody's."""
    with weights_beside(path).open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - _LONGEST))
        _, mark, text = stream.read().rpartition(MARK)
    try:
        found = json.loads(text) if mark else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DscsrError("names and texts as JSON after the weights", repr(text[:50]), _AGAIN, weights_beside(path))
    return found


def require_ncnn() -> None:
    """Raise UnavailableError, with the remedy, unless ncnn files can be run; who writes them needs pnnx, too."""
    try:
        from ncnn import Net  # noqa: F401  # which a folder of that name has not
    except Exception as error:
        raise UnavailableError("ncnn", why_not_imported(error), INSTALL) from error


def _as_probe(path: Path) -> str:
    """The graph with hard swish, through which a NaN goes, in place of ReLU and its like, also within convolutions."""
    first, second, *lines = _lines(path)
    for index, line in enumerate(lines):
        kind, *words = line.split()
        if kind in _LIKE_RELU:
            lines[index] = " ".join(["HardSwish", *(word for word in words if "=" not in word)])
        elif kind in _HAS_ACTIVATION and not {"9=1", "9=2", "9=3"}.isdisjoint(words):
            kept = (word for word in words if not word.startswith(("9=", "-23310=")))
            lines[index] = " ".join([kind, *kept, "9=6", "-23310=2,0.2,0.5"])
    return "\n".join([first, second, *lines, ""])


def _lines(path: Path) -> list[str]:
    """Of the graph, without empty ones, which ncnn skips as well; names are bytes to it."""
    return [line for line in path.read_text("utf-8", "backslashreplace").splitlines() if line.strip()]


def _inspect(path: Path, ask: Ask) -> Said:
    try:
        ends = ask(None)
    except RuntimeError as error:
        raise DscsrError("a whole pair of ncnn files", f"one that fails: {error}", _AGAIN, path) from error
    if len(ends["inputs"]) != 1 or len(ends["outputs"]) != 1:
        raise DscsrError("one input and one output", f"{ends['inputs']} and {ends['outputs']}", _AGAIN, path)
    return Said(False, _channels(path), read_metadata(path).get("size_multiple"))


def _channels(path: Path) -> int:
    """Of the image, by the first convolution, as Upscayl's and chaiNNer's networks begin: ncnn would not say no."""
    folded = 1
    for line in _lines(path)[2:]:
        kind, *words = line.split()
        given = dict(word.split("=", 1) for word in words if "=" in word)
        if kind == "Reorg":  # pixel unshuffle, with which Real-ESRGAN for x2 begins
            folded *= int(given["0"]) ** 2
        if kind == "Convolution":
            outputs, width = int(given["0"]), int(given["1"])
            return int(given["6"]) // (outputs * width * int(given.get("11", width)) * folded)
    raise DscsrError("a network that begins with a convolution", "one without any", "Choose --backend torch.", path)
