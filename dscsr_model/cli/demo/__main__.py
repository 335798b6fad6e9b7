"""The demo's script: every step is an ordinary ``dscsr`` command, printed before it runs.

A network joins the demo by one more entry in ``NETWORKS`` and its two option files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from dscsr_arch.errors import DscsrError
from dscsr_model.cli.demo import commands, figure, photographs, score

SCALE = 4
DATA = Path("datasets/demo")
RESULTS = Path("results/demo")
PHOTOGRAPH = "coffee"
"""The held-out photograph that the best network enlarges in the end, whole."""


class Network(NamedTuple):
    """One row of the demo: how it is called, the option files that train and test it, and whether it is shown."""

    label: str
    train: str
    test: str
    shown: bool = True


NETWORKS = (
    Network("SPAN-26", "options/demo_span_x4.yml", "options/demo_test_span_x4.yml"),
    Network("DSCLoRA-26", "options/demo_dsclora_x4.yml", "options/demo_test_dsclora_x4.yml"),  # starts from SPAN-26
    Network("EDSR-32", "options/demo_edsr_x4.yml", "options/demo_test_edsr_x4.yml", shown=False),
    # Half of EDSR-32's channels, from its weights: by CSD, and alone, which is CSD's baseline.
    Network("EDSR-16 CSD", "options/demo_csd_x4.yml", "options/demo_test_csd_x4.yml"),
    Network("EDSR-16 alone", "options/demo_slice_x4.yml", "options/demo_test_slice_x4.yml", shown=False),
)


def run() -> None:
    """All steps, first to last, in the working directory, which is the root of the repository."""
    held_out = DATA / "held_out"
    print("1. Photographs, from inside scikit-image: eleven to train on, three held out for the test.", flush=True)
    photographs.collect(DATA / "photographs", held_out, SCALE)
    commands.run(
        *("prepare", "--gt", DATA / "photographs", "--out", DATA, "--scale", SCALE),
        *("--format", "png", "--crop-size", 192, "--step", 96, "--force"),
    )

    images = {"bicubic": RESULTS / "bicubic"}
    rows = [score.bicubic(held_out, images["bicubic"], SCALE)]
    trained: dict[str, Path] = {}
    for number, network in enumerate(NETWORKS, start=2):
        says = "train by BasicSR's loop, then test on the held-out photographs."
        print(f"\n{number}. {network.label}: {says}", flush=True)
        training = commands.train(network.train)
        weights, made = commands.test(network.test)
        rows.append(score.network(network.label, weights, made, held_out, SCALE, training))
        trained[network.label] = weights
        if network.shown:
            images[network.label] = made

    comparison = figure.compare(held_out, images, RESULTS / "demo.png", SCALE)
    (RESULTS / "demo.json").write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    print(f"\nHeld-out photographs, x{SCALE} (Y channel, border of {SCALE} cropped):\n\n{score.table(rows)}\n")
    best = max(rows[1:], key=lambda row: row.psnr_y).label
    enlarged = ship(best, trained[best], held_out / "GT" / f"{PHOTOGRAPH}.png")
    print(f"\nImage    {comparison}\nEnlarged {enlarged}\nWeights  experiments/demo_*/models")
    print("Logs     experiments/demo_*, results/demo_*")


def ship(label: str, weights: Path, photograph: Path) -> Path:
    """Export the network of ``label`` and enlarge a whole photograph with what was exported; returns the image."""
    print(f"{len(NETWORKS) + 2}. The best of them, {label}, leaves training: exported, and put to use.", flush=True)
    exported = RESULTS / f"{label.lower().replace(' ', '_')}_x{SCALE}.safetensors"
    commands.run("export", weights, "-o", exported, "--force")
    commands.run("upscale", "-i", photograph, "-o", RESULTS, "-w", exported, "--force")
    return RESULTS / f"{photograph.stem}_x{SCALE}.png"


if __name__ == "__main__":
    try:
        run()
    except DscsrError as error:
        sys.exit(f"demo: error: {error}")
