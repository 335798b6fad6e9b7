"""What gpu.py has found so far: kept as JSON and as a page, written anew after every figure."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dscsr_model.files import atomic
from dscsr_model.profiling.machine import describe
from gpu_steps.plan import Figure, Plan

UNITS = {"ms": "{:.3f} ms", "dB": "{:.2f} dB", "s": "{:.0f} s", "KiB": "{:.0f} KiB"}
HEAD = """\
# Measured on a GPU

By `make gpu` (`benchmarks/gpu.py`). Float32 is float32: TF32 is off, but in the training, which runs as an option file
does. Ways are timed in turns, after a warm-up, between events of the GPU; medians. Peak memory is what PyTorch's
allocator held at most beyond what was there before. Weights are random where quality does not count.
"""


def machine(plan: Plan) -> dict[str, Any]:
    """Hardware, driver and versions."""
    found: dict[str, Any] = dict(describe(plan.device))
    if plan.device.type == "cuda":
        properties = torch.cuda.get_device_properties(plan.device)
        found |= {"gpu_memory_gib": round(properties.total_memory / 2**30, 1), "gpus": torch.cuda.device_count()}
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    return found


class Record:
    """Figures by step, in the order in which they came; a later one of the same thing takes the place of an earlier.

    Args:
        file: JSON.
        page: Markdown.
    """

    def __init__(self, file: Path, page: Path) -> None:
        self.file, self.page = file, page
        self.content: dict[str, Any] = {
            "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
            "machine": {},
            "left_out": [],
            "steps": {},
        }

    def begin(self, step: str) -> None:
        """A step starts; until it ends, that is what is known of it."""
        self.content["steps"][step] = {"figures": [], "fault": "stopped before its end"}
        self.save()

    def add(self, step: str, figure: Figure) -> None:
        """A figure was found."""
        figures = self.content["steps"][step]["figures"]
        figures[:] = [old for old in figures if (old["what"], old["way"]) != figure[:2]]
        figures.append({key: value for key, value in figure._asdict().items() if value not in (None, "")})
        self.save()

    def end(self, step: str, fault: str | None, seconds: float, cpu_seconds: float) -> None:
        """A step has ended, well or not."""
        self.content["steps"][step] |= {
            "fault": fault,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
        }
        self.save()

    def save(self) -> None:
        """Write both files; each is whole at any moment."""
        for path, text in ((self.file, json.dumps(self.content, indent=1)), (self.page, page(self.content))):
            with atomic(path) as stream:
                stream.write(text.encode())


def page(content: dict[str, Any]) -> str:
    """The record as Markdown."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in content["machine"].items())
    lines = [HEAD, f"{content['date']}: {told}."]
    lines += [f"Left out: {line}" for line in content["left_out"]]
    for name, step in content["steps"].items():
        lines += ["", f"## {name}", ""]
        if step["fault"]:
            lines += [f"Not to its end: {step['fault']}.", ""]
        if step["figures"]:
            lines += [
                "| what | way | figure | beside | ratio | peak memory | note |",
                "|---|---|---:|---|---:|---:|---|",
            ]
            lines += map(_row, step["figures"])
    return "\n".join(lines) + "\n"


def _row(figure: dict[str, Any]) -> str:
    unit = figure.get("unit", "")
    value = figure.get("value")
    shown = "not measured" if value is None else UNITS.get(unit, "{:.0f} " + unit).format(value)
    ratio = f"{figure['ratio']:.2f}" if "ratio" in figure else ""
    peak = f"{figure['peak_mib']:.0f} MiB" if "peak_mib" in figure else ""
    cells = (figure["what"], figure["way"], shown, figure.get("against", ""), ratio, peak, figure.get("note", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
