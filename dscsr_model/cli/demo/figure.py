"""The demo's image: a detail of each held-out photograph as LR, bicubic, every network and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dscsr_model.data.image_io import read_rgb
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
    columns = {f"LR (1/{scale})": held_out / "LQ", **images, "ground truth": held_out / "GT"}
    width, height = len(columns) * (ENLARGED + GAP) + GAP, len(DETAILS) * (ENLARGED + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for column, (label, folder) in enumerate(columns.items()):
        for row, truth in enumerate(sorted((held_out / "GT").glob("*.png"))):
            name, made = truth.stem, folder / truth.name
            shrunk = scale if folder == held_out / "LQ" else 1
            top, left, side = (value // shrunk for value in (*DETAILS[name], DETAIL))
            detail = read_rgb(made)[top : top + side, left : left + side]
            caption = label
            if label in images:
                top, left = DETAILS[name]
                expected = read_rgb(truth)[top : top + DETAIL, left : left + DETAIL]
                caption = f"{label}  {psnr(detail, expected, luma=True):.2f} dB"
            x, y = GAP + column * (ENLARGED + GAP), GAP + row * (ENLARGED + CAPTION + GAP)
            # Pixels stay pixels: nothing here may look smoother than it is.
            enlarged = Image.fromarray(detail).resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, y))
            draw.text((x + 2, y + ENLARGED + 4), caption, fill="black", font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out
