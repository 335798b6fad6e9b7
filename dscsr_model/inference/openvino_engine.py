"""ONNX files run by OpenVINO on a CPU: in the precision that was asked for, and without its telemetry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dscsr_arch.errors import DscsrError, UnavailableError, why_not_imported
from dscsr_model.inference.engines import Engine, find_device, scale_of
from dscsr_model.inference.no_telemetry import import_openvino
from dscsr_model.inference.onnx_file import has_levels, rehearse, require_onnx
from dscsr_model.inference.receptive_field import PROBE_SIDE, RADIUS, not_less, receptive_field

_TYPES = {"fp32": "f32", "bf16": "bf16"}
_KEPT = 2
"""Programs for single sizes: of an image, and of one on its side."""


def openvino_engine(
    path: str | Path, *, device: str = "auto", precision: str = "fp32", threads: int | None = None
) -> Engine:
    """A network in an ONNX file, run by OpenVINO on the CPU.

    Args:
        path: A file as for `engines.onnx_engine`.
        device: ``auto`` or ``cpu``.
        precision: To compute in, ``fp32`` or ``bf16``. OpenVINO itself would take bf16 wherever the CPU has it.
        threads: None: as many as PyTorch uses.

    Raises:
        DscsrError: The file cannot be read or is of another kind; there is no such device or precision here; or a
            package is missing.
        SizeError: Its network takes no images of any size that was tried.
    """
    require_openvino()
    if device != "auto" and find_device(device).type != "cpu":
        raise UnavailableError("--device cpu for OpenVINO", f"--device {device}", "Choose it, or --backend torch.")
    if precision not in _TYPES:
        raise DscsrError(f"a precision among {', '.join(_TYPES)} for OpenVINO", repr(precision), "Choose one.")
    core = import_openvino().Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnavailableError("a CPU that computes in bf16", "one that does not", "Choose --precision fp32.")
    settings = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
    }
    path = Path(path)
    half, channels, sizes, shape, memory = rehearse(path)
    scale = scale_of(shape, channels, sizes.fit(PROBE_SIDE), str(path))
    try:
        programs = _Programs(core, str(path), settings, coarse=precision == "bf16" or has_levels(path))
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise DscsrError("OpenVINO to open it", f"this from it: {said}", "Try --backend onnx.", path) from error

    def run(x: Tensor, program: Callable[[Any], Any] = programs) -> Tensor:
        images = x.to(torch.float16 if half else torch.float32).contiguous().numpy()
        try:
            made = torch.from_numpy(program(images)).float()
        except RuntimeError as error:  # where from, line by line, and then what
            raise RuntimeError(f"OpenVINO: {str(error).strip().splitlines()[-1]}") from error
        if made.shape[2:] != (scale * x.shape[2], scale * x.shape[3]):  # no word of it: what it gave last comes again
            raise RuntimeError("OpenVINO: not enough memory")
        return made

    # By one program alone: another rounds differently everywhere, as if each pixel saw the whole image.
    seen = receptive_field(partial(run, program=programs.any_size), channels, sizes, memory)
    return Engine(run, scale, channels, not_less(seen, _metadata(path).get(RADIUS)), one_size=True)


def _metadata(path: Path) -> dict[str, str]:
    import onnx

    return {each.key: each.value for each in onnx.load(str(path), load_external_data=False).metadata_props}


class _Programs:
    """A model compiled for any size, and for single sizes, which is faster: by a sixth, by half where it has levels.

    The two round differently, which shows where numbers are ``coarse``: there each size gets its own, and those for
    single sizes give the same to the last bit. Else a size gets its own when it comes twice in a row.
    """

    def __init__(self, core: Any, path: str, settings: dict[str, Any], *, coarse: bool) -> None:
        self._model = core.read_model(path)
        self._compile = lambda model: core.compile_model(model, "CPU", settings)
        self._any_size = self._compile(self._model)
        self._request = self._any_size.create_infer_request()
        self._coarse = coarse
        self._own: dict[tuple[int, ...], Any] = {}
        self._last_shape: tuple[int, ...] = ()

    def __call__(self, images: Any) -> Any:
        shape, last = images.shape, self._last_shape
        self._last_shape = shape
        if shape not in self._own and (self._coarse or shape == last):
            self._any_size.release_memory()  # each keeps its features until then
            self._request = self._any_size.create_infer_request()  # where memory ends, the old one's result would come
            if len(self._own) == _KEPT:
                del self._own[next(iter(self._own))]
            model = self._model.clone()
            model.reshape(list(shape))
            self._own[shape] = self._compile(model)
        return self._own[shape](images)[0].copy() if shape in self._own else self.any_size(images)

    def any_size(self, images: Any) -> Any:
        return self._request.infer(images, share_inputs=True)[0]


def require_openvino() -> None:
    """Raise UnavailableError, with the remedy, unless OpenVINO and what reads ONNX files are installed."""
    try:
        import_openvino().Core  # noqa: B018 - which a folder of that name has not
    except Exception as error:
        remedy = "Run `pip install 'dscsr[openvino]'`."
        raise UnavailableError("OpenVINO", why_not_imported(error), remedy) from error
    require_onnx()
