"""``dscsr export``: a weight file becomes fused weights, an ONNX model or a program, checked against its source."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dscsr_model.cli import weights

if TYPE_CHECKING:
    from dscsr_model.export.formats import Format
    from dscsr_model.export.ship import Shipped

_FORMATS = ("pth", "safetensors", "spandrel", "onnx", "torch-export", "torchscript")

_EXAMPLES = """examples:
  fused weights, with what shapes cannot tell beside them:
    dscsr export experiments/span/models/net_g_latest.pth -o span_x4.safetensors
  for ONNX Runtime, TensorRT and others; for spandrel and chaiNNer:
    dscsr export span_x4.safetensors -o span_x4.onnx
    dscsr export span_x4.safetensors -o shipped/ --format spandrel
  LoRA adapters and their base; a student of a CSSR-Net:
    dscsr export lora_g_latest.pth --base span_ch26_x4_fused.pth -o dsclora_x4.pth
    dscsr export net_g_latest.pth --width 0.25 -o edsr_quarter_x4.onnx --fp16
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained network for other programs: fused weights, ONNX, spandrel, TorchScript",
        description="Write a trained network for other programs. The output is loaded again and compared with its "
        "source on images of several sizes; only if they agree does it get its name.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="any weight file: checkpoint, fused, LoRA, CSSR-Net")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="a file, or a folder (then --format) to name it in"
    )
    parser.add_argument(
        "--format", choices=_FORMATS, help="default: what OUT ends in, .pth .safetensors .onnx .pt2 .pt"
    )
    parser.add_argument("--fp16", action="store_true", help="float16 weights; programs compute in it, and take float32")
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX: 17 (default) to 20")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    weights.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export one network; returns the exit code."""
    from dscsr_model.export.formats import choose, with_opset
    from dscsr_model.export.ship import ship

    path, form = choose(args.out, args.format, args.weights, args.fp16)
    if args.opset is not None:
        form = with_opset(form, args.opset)
    if form.name == "spandrel":
        _mend_torchvision()
    network = weights.load_network(args)
    sources = [args.weights, *([] if args.base is None else [args.base])]
    shipped = ship(network, path, form, half=args.fp16, force=args.force, sources=sources)
    print(describe(shipped, form, args.fp16))
    return 0


def _mend_torchvision() -> None:
    """Let spandrel be asked also where torchvision, which it imports, takes a mend beside this build of torch."""
    from dscsr_model.host.compat import patch_imports

    with suppress(Exception):  # what stays broken stops the import of spandrel, too, and is told there
        patch_imports()


def describe(shipped: Shipped, form: Format, half: bool) -> str:
    """What was written, as text."""
    from dscsr_arch.metadata import deciding_arguments, shown
    from dscsr_model.export.compare import HALF_TOLERANCE, TOLERANCE

    network, arguments = shipped.metadata
    width = arguments.get("feature_channels", arguments.get("num_feat"))
    known = ", ".join(f"{name} {shown(arguments[name])}" for name in deciding_arguments() if name in arguments)
    tolerance = f"{HALF_TOLERANCE if half else TOLERANCE:.0e} allowed"
    lines = [
        f"{shipped.path}  {_bytes(shipped.bytes)}, {'float16' if half else 'float32'}, {form.says}",
        f"  {network}, {width} channels, x{arguments['upscale']}, {shipped.parameters:,} parameters when fused",
        f"  {known}",
    ]
    lines += [
        f"  largest difference from the source, read by {by}: {value:.1e} of a range of 1 ({tolerance})"
        for by, value in shipped.differences.items()
    ]
    return "\n".join([*lines, *(f"  {line}" for line in _notes(shipped, form))])


def _notes(shipped: Shipped, form: Format) -> list[str]:
    """What to know and to do next."""
    if form.name in ("pth", "safetensors", "onnx"):
        return [f"use it: dscsr upscale -i photo.png -o results -w {shipped.path}"]
    if form.name != "spandrel":
        load = {"torch-export": "torch.export.load({!r}).module()", "torchscript": "torch.jit.load({!r})"}[form.name]
        return [f"use it: {load.format(str(shipped.path))}(image), float32 (B, C, H, W) in [0, 1]"]
    notes = [f"{by} itself was not asked: {why_not}" for by, why_not in shipped.not_asked.items()]
    if shipped.metadata.network != "SPAN":
        notes.append(
            f"spandrel does not know {shipped.metadata.network} (0.4.2), nor does chaiNNer. In Python, this helps:"
        )
        notes.append("from dscsr_model.export.spandrel_support import register; register()")
    notes.append(f"use it: spandrel.ModelLoader().load_from_file({str(shipped.path)!r})")
    return notes


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"
