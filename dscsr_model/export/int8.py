"""ONNX models whose convolutions compute in 8 bits: quantized after training, from what images show of their ranges.

Values between convolutions become 8-bit integers by one scale per tensor, weights by one per output channel
(QuantizeLinear and DequantizeLinear around each convolution, which programs turn into integer arithmetic;
Krishnamoorthi 2018, arXiv 1806.08342). All else stays in float32, and so do the convolutions that would cost most.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.quantized_conv import require_full_precision
from dscsr_arch.sizes import padded, size_requirements
from dscsr_model.evaluation.metrics import psnr
from dscsr_model.evaluation.protocol import Image, as_input, super_resolve
from dscsr_model.export.calibration import Sample, Samples
from dscsr_model.export.compare import difference, images, input_channels
from dscsr_model.export.onnx import run_onnx, to_onnx
from dscsr_model.inference.no_telemetry import import_onnxruntime
from dscsr_model.inference.onnx_file import CPU, require_onnx
from dscsr_model.inference.receptive_field import RADIUS, receptive_field
from dscsr_model.profiling.latency import progress

BITS = "bits"
"""In the metadata of a file."""
FLOAT_SHARE = 0.25
"""Of all multiplications, at most this part stays in float32 (why a quarter: docs/shipping/export.md)."""
_PROBES = 6
"""Images by which each convolution is tried alone."""
_MOST_TRIED = 100
_SIDE = 24
"""Of the image for which multiplications are counted."""
LEAST_PSNR = 30.0
"""In dB, of the image beside that of float32: what is further off is no use to anybody."""

Run = Callable[[Tensor], Tensor]


class Cost(NamedTuple):
    """What 8 bits cost, over the images that were held out, in dB of PSNR on R, G and B of 8-bit images."""

    of_float: float
    """Beside the image of float32; inf if they are equal."""
    in_float: float | None
    """Of float32 beside the truth, if that is known."""
    in_int8: float | None
    images: int
    kept: tuple[str, ...]
    """The convolutions that stay in float32."""
    convolutions: int


def to_int8(network: nn.Module, path: Path, samples: Samples, *, opset: int) -> Cost:
    """Write ``network`` as `onnx.to_onnx` does, with convolutions in 8 bits.

    Args:
        network: Any that `load_model` gives, of images of 3 channels or 1; it stays as it is.
        path: The file; an existing one is replaced.
        samples: Images as the network gets them.
        opset: As for `onnx.to_onnx`.

    Raises:
        DscsrError: As there and in `compare.difference`; or the result differs too much to be of use.
    """
    require_onnx()
    import onnx

    require_full_precision(network, "8 bits after training")
    shipped = deployable(network)
    sizes = size_requirements(shipped)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # hidden there, the next export removes what is left
        plain, trial = Path(folder, "float.onnx"), Path(folder, "trial.onnx")
        to_onnx(shipped, plain, opset=opset)
        run = run_onnx(plain)
        difference(shipped, run, by="ONNX Runtime")  # what follows compares with this file
        model = onnx.load(str(plain))
        ranges = _ranges(plain, [_fitted(shipped, sample.lq) for sample in samples.learned_from])

        probes = _probes(shipped, samples)
        expected = [run(x) for x in probes]

        def error(names: Iterable[str]) -> float:
            """Mean square difference from float32 if the convolutions of these names are in 8 bits."""
            trial.write_bytes(_quantized(model, ranges, names).SerializeToString())
            candidate = run_onnx(trial)
            return fmean(float((candidate(x) - y).square().mean()) for x, y in zip(probes, expected, strict=True))

        work = _work(model, sizes.fit(_SIDE))
        kept = _kept(work, error)
        result = _quantized(model, ranges, work.keys() - set(kept))
        seen = receptive_field(shipped, input_channels(shipped), sizes, 0)
        known = {prop.key: prop.value for prop in model.metadata_props}
        onnx.helper.set_model_props(result, known | {BITS: "8", **({RADIUS: str(seen.radius)} if seen.local else {})})
        onnx.checker.check_model(result, full_check=True)
        path.write_bytes(result.SerializeToString())
        int8 = run_onnx(path)
        _check_sizes(shipped, int8)
        cost = _cost(lambda x: padded(run, x, sizes), lambda x: padded(int8, x, sizes), samples.held_out, shipped)
    if cost.of_float < LEAST_PSNR:
        raise DscsrError(
            f"8 bits to come to at least {LEAST_PSNR:.0f} dB beside float32", f"{cost.of_float:.1f} dB",
            "Calibrate with images like those that the network is for, or train with `quantize:`.",
        )  # fmt: skip
    return cost._replace(kept=tuple(kept), convolutions=len(work))


def _fitted(network: nn.Module, image: Image) -> Tensor:
    """(1, C, H, W), mirrored up to a size that the network takes."""
    found: list[Tensor] = []

    def see(x: Tensor) -> Tensor:
        found.append(x)
        return x

    padded(see, as_input(image), size_requirements(network))
    return found[0]


def _probes(network: nn.Module, samples: Samples) -> list[Tensor]:
    step = -(-len(samples.learned_from) // _PROBES)
    return [_fitted(network, sample.lq) for sample in samples.learned_from[::step]]


def _ranges(plain: Path, inputs: list[Tensor]) -> Any:
    """The smallest and largest value of every tensor at a convolution; only these two are kept of each image."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):
        """Hands on one image after the other."""

        def __init__(self) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            """An image, or None behind the last one."""
            image = next(self._inputs, None)
            return None if image is None else {"input": image.numpy()}

    augmented = str(plain.with_name("ranges.onnx"))
    calibrator = create_calibrator(plain, ["Conv"], augmented)
    calibrator.collect_data(Reader())
    return calibrator.compute_data()


def _quantized(model: Any, ranges: Any, names: Iterable[str]) -> Any:
    """A copy of ``model`` with the convolutions of these names in 8 bits: values unsigned, weights signed."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    arguments: list[Any] = [copy.deepcopy(model), True, False, QuantType.QInt8, QuantType.QUInt8, ranges]
    quantizer = QDQQuantizer(*arguments, sorted(names), [], ["Conv"], {})
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _work(model: Any, side: int) -> dict[str, int]:
    """Multiplications of every convolution, by its name, for an image of this side.

    It is run on one: shapes that a network computes, as RRDBNet of ×2, cannot be inferred.
    """
    import onnx

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    telling, made = copy.deepcopy(model), [node.output[0] for node in convolutions]
    del telling.graph.output[:]
    telling.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = import_onnxruntime().InferenceSession(telling.SerializeToString(), providers=CPU)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    outputs = session.run(made, {"input": torch.zeros(1, channels, side, side).numpy()})
    weights = {weight.name: math.prod(weight.dims) for weight in model.graph.initializer}
    return {
        node.name: weights.get(node.input[1], 0) * math.prod(output.shape[2:])
        for node, output in zip(convolutions, outputs, strict=True)
    }


def _kept(work: dict[str, int], error: Callable[[Iterable[str]], float]) -> list[str]:
    """The convolutions that spare the image most for the work they are, up to `FLOAT_SHARE`; in their order.

    Of networks with very many the first and the last one.
    """
    if len(work) > _MOST_TRIED:
        return [next(iter(work)), next(reversed(work))]
    harm = {name: error([name]) / max(1, work[name]) for name in progress(work, "trying 8 bits")}
    room = FLOAT_SHARE * sum(work.values())
    kept: set[str] = set()
    for name in sorted(work, key=lambda name: -harm[name]):
        if work[name] <= room and len(kept) < len(work) - 1:
            kept.add(name)
            room -= work[name]
    return [name for name in work if name in kept]


def _check_sizes(network: nn.Module, int8: Run) -> None:
    """Raise DscsrError unless the file takes images of awkward sizes, and gives finite numbers of the right shape."""
    sizes = size_requirements(network)
    for image in images(input_channels(network)):
        with torch.no_grad():
            wanted, got = padded(network, image, sizes).shape, padded(int8, image, sizes)
        if got.shape != wanted or not got.isfinite().all():
            what = f"the file to make finite numbers, {tuple(wanted)}, of an image {tuple(image.shape)}"
            raise DscsrError(what, tuple(got.shape), "Please report this with the versions of onnx and onnxruntime.")


def _cost(run: Run, int8: Run, held_out: list[Sample], network: nn.Module) -> Cost:
    def made() -> Iterator[tuple[float, float | None, float | None]]:
        for sample in held_out:
            float_image, image = super_resolve(run, sample.lq), super_resolve(int8, sample.lq)
            border = max(1, float_image.shape[0] // sample.lq.shape[0])
            truth = sample.gt
            both = (None, None) if truth is None else (psnr(float_image, truth, border), psnr(image, truth, border))
            yield psnr(image, float_image), *both

    beside, in_float, in_int8 = zip(*made(), strict=True)
    known = None not in in_float
    return Cost(
        fmean(beside), fmean(in_float) if known else None, fmean(in_int8) if known else None, len(held_out), (), 0
    )
