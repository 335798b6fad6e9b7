"""The demo's script: every step is an ordinary ``dscsr`` command, printed before it runs.

A network joins the demo by one more entry in ``NETWORKS`` and its option file, whose ``max_seconds`` says how long it
is trained: so the demo takes as long on every machine, and its figures differ.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from dscsr_arch.errors import DscsrError
from dscsr_model import weights
from dscsr_model.cli.demo import commands, figure, photographs, score

SCALE = 4
DATA = Path("datasets/demo")
HELD_OUT = DATA / "held_out"
RESULTS = Path("results/demo")
PHOTOGRAPH = "coffee"
"""The held-out photograph that the shipped network enlarges at the start, and the best one of the demo in the end."""
SHIPPED = "SPAN-26 shipped"


class Network(NamedTuple):
    """A training of the demo: how its network is called, what it is, its option file, and whether it is shown."""

    label: str
    about: str
    options: str
    file: str = "net_g_latest.pth"
    shown: bool = True


NETWORKS = (
    Network("SPAN-26", "from random weights", "options/demo_span_x4.yml"),
    Network(
        "DSCLoRA-26", f"LoRA on {SHIPPED}, the better of start and end: seconds give it little or nothing",
        "options/demo_dsclora_x4.yml", "fused_g_best.pth",
    ),
    Network("EDSR-32", "from random weights, the teacher of the next one", "options/demo_edsr_x4.yml", shown=False),
    Network(
        "EDSR-16 CSD", "half of EDSR-32's channels, in the same weights", "options/demo_csd_x4.yml",
        "student_w0.5_latest.pth",
    ),
)  # fmt: skip


def run() -> None:
    """All steps, first to last, in the working directory, which is the root of the repository."""
    start = time.perf_counter()
    seconds = [commands.seconds_of(network.options) for network in NETWORKS]
    print(f"The demo takes about four minutes, {sum(seconds):.0f} seconds of them for training.\n")
    print("1. A photograph of a quarter of its size, enlarged by the network that comes with dscsr.", flush=True)
    photographs.collect(DATA / "photographs", HELD_OUT, SCALE)
    shipped = weights.find(f"span_x{SCALE}")
    commands.run("upscale", "-i", HELD_OUT / "LQ" / f"{PHOTOGRAPH}.png", "-o", RESULTS, "--force")
    rows = [score.bicubic(HELD_OUT, RESULTS / "bicubic", SCALE)]
    rows.append(score.network(SHIPPED, shipped, RESULTS / SHIPPED, HELD_OUT, SCALE))
    images = {"bicubic": RESULTS / "bicubic", SHIPPED: RESULTS / SHIPPED}
    first = figure.compare(HELD_OUT, images, RESULTS / "first.png", SCALE)
    decibels = [f"{label} {score.psnr_of(made, HELD_OUT, PHOTOGRAPH, SCALE):.2f} dB" for label, made in images.items()]
    print(f"PSNR-Y: {', '.join(decibels)}. Image: {first}", flush=True)

    print("\n2. Photographs from inside scikit-image become LMDBs: eleven to train on; three are held out.", flush=True)
    commands.run(
        *("prepare", "--gt", DATA / "photographs", "--out", DATA, "--scale", SCALE),
        *("--format", "png", "--crop-size", 192, "--step", 96, "--force"),
    )
    trained = {SHIPPED: shipped}
    for number, (network, limit) in enumerate(zip(NETWORKS, seconds, strict=True), start=3):
        print(f"\n{number}. {network.label}, {network.about}: {limit:.0f} seconds in BasicSR's loop.", flush=True)
        training = commands.train(network.options)
        trained[network.label] = training.folder / "models" / network.file
        made = RESULTS / network.label
        rows.append(score.network(network.label, trained[network.label], made, HELD_OUT, SCALE, training))
        if network.shown:
            images[f"{network.label}, {limit:.0f} s"] = made

    comparison = figure.compare(HELD_OUT, images, RESULTS / "demo.png", SCALE)
    (RESULTS / "demo.json").write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    best = max(rows[2:], key=lambda row: row.psnr_y).label
    print(f"\n{len(NETWORKS) + 3}. The best that was trained here, {best}, exported and put to use.", flush=True)
    enlarged = ship(best, trained[best])
    print(f"\nHeld-out photographs, x{SCALE} (Y channel, border of {SCALE} cropped):\n\n{score.table(rows)}")
    print(f"\nImage    {comparison}\nEnlarged {enlarged}\nWeights  experiments/demo_*/models")
    print(f"All of it took {time.perf_counter() - start:.0f} s. More: README.md, `dscsr --help`.")


def ship(label: str, weights: Path) -> Path:
    """Export the network of ``label`` and enlarge a whole photograph with what was exported; returns the image."""
    exported = RESULTS / f"{label.lower().replace(' ', '_')}_x{SCALE}.safetensors"
    commands.run("export", weights, "-o", exported, "--force")
    photograph = HELD_OUT / "GT" / f"{PHOTOGRAPH}.png"
    commands.run("upscale", "-i", photograph, "-o", RESULTS / "whole", "-w", exported, "--force")
    return RESULTS / "whole" / f"{photograph.stem}_x{SCALE}.png"


if __name__ == "__main__":
    try:
        run()
    except DscsrError as error:
        sys.exit(f"demo: error: {error}")
