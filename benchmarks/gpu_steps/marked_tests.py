"""The tests marked ``gpu``, in a process of pytest, each told as it ends."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_steps.plan import Figure, Plan

ROOT = Path(__file__).parents[2]
SMOKE = "tests/dscsr_arch/test_networks_gpu.py"
"""Alone, without a GPU: it says why it is skipped."""
_LINE = re.compile(r"(?:\[gw\d+\] \[ *\d+%\] ([A-Z]+) )?(tests/.+?)(?: (PASSED|FAILED|SKIPPED|ERROR)\b.*)?$")
"""Of several processes the outcome comes first."""


def figures(plan: Plan) -> Iterator[Figure]:
    """One line for each test that did not pass, and one for all."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider"]
    if not plan.smoke and importlib.util.find_spec("xdist"):
        command += ["-n", str(max(1, min(6, (os.cpu_count() or 1) // 2)))]
    command += [SMOKE] if plan.smoke else []
    env = {**os.environ, **({"DSCSR_TEST_ASSETS": str(plan.assets)} if plan.assets else {})}
    counts: Counter[str] = Counter()
    with (
        open(plan.out / "tests.log", "w", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            outcome, test = _read(line)
            if outcome is None:
                continue
            counts[outcome] += 1
            if outcome in ("FAILED", "ERROR"):
                yield Figure("tests marked gpu", test, note=f"{outcome.lower()}: see tests.log")
            yield Figure("tests marked gpu", "all", counts["PASSED"], "passed", note=_in_words(counts))
    if process.returncode not in (0, 1):
        yield Figure("tests marked gpu", "pytest", note=f"ended with {process.returncode}: see tests.log")


def _read(line: str) -> tuple[str | None, str]:
    found = _LINE.match(line)
    return ((found[1] or found[3]), found[2]) if found else (None, "")


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {outcome.lower()}" for outcome, number in sorted(counts.items()))
