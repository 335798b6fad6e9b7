"""``dscsr export``: a weight file becomes fused weights or a program of others, checked against its source."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_model.cli import export_int8, networks

if TYPE_CHECKING:
    from dscsr_model.export.formats import Format
    from dscsr_model.export.ship import Shipped

_PSNR = 32
"""dB of images whose loss is told: what such networks reach at x4."""
_FORMATS = ("pth", "safetensors", "spandrel", "onnx", "torch-export", "torchscript", "ncnn")

_EXAMPLES = """examples:
  fused weights, with what shapes cannot tell beside them:
    dscsr export experiments/span/models/net_g_latest.pth -o span_x4.safetensors
  for ONNX Runtime, TensorRT and others; for spandrel and chaiNNer:
    dscsr export span_x4.safetensors -o span_x4.onnx
    dscsr export span_x4.safetensors -o shipped/ --format spandrel
  for Upscayl, chaiNNer and phones; span_x4.bin comes with it:
    dscsr export span_x4.safetensors -o models/span_x4.param
  in 8 bits, for CPUs, calibrated on low-resolution images of `dscsr prepare`:
    dscsr export span_x4.safetensors -o span_x4_int8.onnx --int8 --calibrate train/LQ_X4.lmdb train/GT.lmdb
  LoRA adapters and their base; a student of a CSSR-Net:
    dscsr export lora_g_latest.pth --base span_ch26_x4_fused.pth -o dsclora_x4.pth
    dscsr export net_g_latest.pth --width 0.25 -o edsr_quarter_x4.onnx --fp16
  the adapters themselves as a folder of PEFT's (its adapter_model.safetensors is read like lora_g_*.pth):
    dscsr export lora_g_latest.pth --base swinir_light_x4 -o adapter --format peft
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained network for other programs: fused weights, ONNX, spandrel, TorchScript, ncnn, PEFT",
        description="Write a trained network for other programs. The output is loaded again and compared with its "
        "source on images of several sizes; only if they agree does it get its name.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "weights",
        metavar="WEIGHTS",
        help="any weight file (checkpoint, fused, LoRA, CSSR-Net), or a name that `dscsr weights` lists",
    )
    add("-o", "--out", required=True, metavar="OUT", help="a file, or a folder (then --format) to name it in")
    add(
        "--format",
        choices=(*_FORMATS, "peft"),
        help="default: what OUT ends in, .pth .safetensors .onnx .pt2 .pt .param; peft: a folder",
    )
    add("--fp16", action="store_true", help="float16 weights; programs compute in it, and take float32")
    add("--opset", type=int, metavar="N", help="of ONNX: 17 (default) to 20")
    add("--force", action="store_true", help="replace OUT if it is there")
    export_int8.add_arguments(parser)
    networks.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export one network; returns the exit code."""
    from dscsr_model.export.formats import choose
    from dscsr_model.export.ncnn import named_for_upscayl
    from dscsr_model.export.ship import ship

    export_int8.check(args)
    networks.find_weights(args)
    if args.format == "peft":
        return _export_adapters(args)
    path, form = choose(args.out, args.format, args.weights, args.fp16, args.opset)
    sources = [args.weights, *([] if args.base is None else [args.base])]
    if args.int8:
        print("\n  ".join(export_int8.export(args, path, form, sources)))
        return 0
    network = networks.load_network(args)
    if form.name == "ncnn" and path != Path(args.out):  # its name is ours to choose
        path = named_for_upscayl(path, network)
    shipped = ship(network, path, form, half=args.fp16, force=args.force, sources=sources)
    print("\n  ".join([*_described(shipped, form, args.fp16), *_notes(shipped, form)]))
    return 0


def _export_adapters(args: argparse.Namespace) -> int:
    from dscsr_arch.errors import DscsrError
    from dscsr_model.export.compare import TOLERANCE
    from dscsr_model.export.peft import write_adapters

    if args.fp16 or args.int8 or args.opset is not None:
        raise DscsrError("adapters in the precision that they have", "--fp16, --int8 or --opset", "Leave it out.")
    out = Path(args.out)
    differences, not_asked = write_adapters(networks.load_network(args), out, force=args.force)
    print(f"{out}  LoRA as PEFT has it: adapter_model.safetensors, adapter_config.json")
    for by, value in differences.items():
        print(
            f"  largest difference from the source, read by {by}: {value.largest:.1e} of a range of 1 "
            f"({TOLERANCE:.0e} allowed)"
        )
    for by, why_not in not_asked.items():
        print(f"  {by} itself was not asked: {why_not}")
    print(f"  use it: peft.PeftModel.from_pretrained(base, {str(out)!r}), with the base as dscsr runs it")
    return 0


def _described(shipped: Shipped, form: Format, half: bool) -> Iterator[str]:
    """What was written."""
    from dscsr_arch.metadata import deciding_arguments, in_words, shown, unread
    from dscsr_model.export.compare import HALF_TOLERANCE, TOLERANCE

    arguments = shipped.metadata.arguments
    size = f"{shipped.bytes / 2**20:.1f} MiB" if shipped.bytes >= 2**20 else f"{shipped.bytes / 2**10:.0f} KiB"
    kind = "float16" if half else "quantized" if shipped.quantized else "float32"
    yield f"{shipped.path}  {size}, {kind}, {form.says}"
    yield f"{in_words(shipped.metadata)}, {shipped.parameters:,} parameters when fused"
    if shipped.quantized:
        yield f"{shipped.quantized}, all else in float32"
    read = [name for name in deciding_arguments() if name in arguments and name not in unread(arguments)]
    if known := [f"{name} {shown(arguments[name])}" for name in read]:
        yield ", ".join(known)
    for by, value in shipped.differences.items():
        tolerance = f"({HALF_TOLERANCE if half else TOLERANCE:.0e} allowed)"
        if shipped.quantized:
            tolerance = f"({TOLERANCE:.0e} allowed, or 50 dB in the mean: values between levels fall on either side)"
        yield f"largest difference from the source, read by {by}: {value.largest:.1e} of a range of 1 {tolerance}"
        if half:
            yield f"what float16 costs, read by {by}: {value.cost(_PSNR):.1g} dB of images of {_PSNR} dB"


def _notes(shipped: Shipped, form: Format) -> Iterator[str]:
    """What to know and to do next."""
    from dscsr_arch.architecture import architectures
    from dscsr_model.export.ncnn import upscayl_scale

    path, name = str(shipped.path), shipped.metadata.network
    if form.name == "ncnn":
        scale, read = shipped.metadata.arguments.get("upscale"), upscayl_scale(shipped.path.stem)
        if scale is not None and scale != read:
            also = "" if upscayl_scale(f"{shipped.path.stem}_x{scale}") == scale else f", without x{read} and {read}x"
            yield f"Upscayl reads the scale off the name, here x{read}: call both files …_x{scale}{also}"
        yield "Upscayl: put both files into a folder named models; chaiNNer: Load Model (NCNN)"
    if form.name == "spandrel":
        for by, why_not in shipped.not_asked.items():
            yield f"{by} itself was not asked: {why_not}"
        support = architectures()[name].spandrel
        if support is not None and not support.known:
            yield f"spandrel does not know {name} (0.4.2), nor does chaiNNer. In Python, this helps:"
            yield "from dscsr_model.export.spandrel_support import register; register()"
    uses = {
        "spandrel": f"spandrel.ModelLoader().load_from_file({path!r})",
        "torch-export": f"torch.export.load({path!r}).module()(image), float32 (B, C, H, W) in [0, 1]",
        "torchscript": f"torch.jit.load({path!r})(image), float32 (B, C, H, W) in [0, 1]",
    }
    yield f"use it: {uses.get(form.name, f'dscsr upscale -i photo.png -o results -w {shlex.quote(path)}')}"
