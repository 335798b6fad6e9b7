"""The demo's image: a detail of each held-out photograph as LR, bicubic, every network and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dscsr_model.cli.demo.photographs import load
from dscsr_model.evaluation.metrics import psnr

DETAIL = 120
"""Side of a detail in pixels of the ground truth."""
ENLARGED = 264
"""Side of a detail in the image."""
GAP = 6
CAPTION = 26

DETAILS = {"chelsea": (56, 112), "coffee": (176, 212), "rocket": (120, 264)}
"""Top and left of the detail of each photograph, multiples of the scale."""


def compare(held_out: Path, images: Mapping[str, Path], out: Path, scale: int) -> Path:
    """Save the comparison.

    Args:
        held_out: Folder with ``GT/`` and ``LQ/``.
        images: Label to folder of super-resolved photographs, in the order of the columns.
        out: PNG file to write.
        scale: Between LQ and GT.

    Returns:
        ``out``.
    """
    names = sorted(path.stem for path in (held_out / "GT").glob("*.png"))
    labels = [f"LR (1/{scale})", *images, "ground truth"]
    width = len(labels) * (ENLARGED + GAP) + GAP
    sheet = Image.new("RGB", (width, len(names) * (ENLARGED + CAPTION + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for row, name in enumerate(names):
        gt = load(held_out / "GT" / f"{name}.png")
        top, left = DETAILS[name]
        window = slice(top, top + DETAIL), slice(left, left + DETAIL)
        lq = load(held_out / "LQ" / f"{name}.png")
        details = [lq[top // scale : (top + DETAIL) // scale, left // scale : (left + DETAIL) // scale]]
        captions = [labels[0]]
        for label, folder in images.items():
            (made,) = folder.glob(f"{name}*.png")
            details.append(load(made)[window])
            decibel = psnr(details[-1][:, :, ::-1], gt[window][:, :, ::-1], luma=True)
            captions.append(f"{label}  {decibel:.2f} dB")
        details.append(gt[window])
        captions.append(labels[-1])
        y = GAP + row * (ENLARGED + CAPTION + GAP)
        for column, (detail, caption) in enumerate(zip(details, captions, strict=True)):
            x = GAP + column * (ENLARGED + GAP)
            sheet.paste(_enlarge(detail), (x, y))
            draw.text((x + 2, y + ENLARGED + 4), caption, fill="black", font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def _enlarge(detail: np.ndarray) -> Image.Image:
    """Pixels stay pixels: nothing here may look smoother than it is."""
    rgb = cv2.cvtColor(detail, cv2.COLOR_BGR2RGB)
    return Image.fromarray(rgb).resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST)
