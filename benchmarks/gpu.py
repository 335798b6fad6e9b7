"""All that a GPU has to show, in one command: tests, benchmarks against the plain ways, and a training.

    python benchmarks/gpu.py [--budget 480] [--assets DIR] [--out results/gpu] [--page docs/gpu.md]
    python benchmarks/gpu.py --smoke
    python benchmarks/gpu.py --write results/gpu/gpu.json [--page docs/gpu.md]

In this order: the tests marked `gpu`; steps of SPAN, official against merged, in float32, bf16, as CUDA graphs and
compiled; affinity and contrast against all pairs; whole iterations against BasicSR's; steps of CSD; inference; and
with the rest of the time a training of the shipped SPAN-26 x4. Each has a share of what is left of the budget, and runs
in a process of its own: one that fails or takes too long is told with its reason. What is known is written after every
figure, to OUT/gpu.json and the page; a stop loses nothing. Logs and the trained weights lie in OUT, too.

DIR holds bsds400, set5 and weights; without them the training takes photographs and a teacher that any machine has.
Without a GPU the command ends, but for ``--smoke``, which runs all of it at tiny sizes on the CPU, without the
compiler, in a temporary folder, and fails if a step does. ``--write`` makes the page of a record from another machine.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # looking for a GPU must not touch it before processes are forked
SMOKE = "--smoke" in sys.argv
if SMOKE:
    os.environ["TORCH_COMPILE_DISABLE"] = "1"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from gpu_steps import loops, losses, marked_tests, span_steps, super_resolve, training  # noqa: E402
from gpu_steps.plan import Figure, Plan  # noqa: E402
from gpu_steps.record import Record, machine, page  # noqa: E402
from gpu_steps.runner import run_apart  # noqa: E402

import dscsr_model  # noqa: E402


class Step(NamedTuple):
    """``share`` is of the budget that is left when it begins."""

    name: str
    share: float
    figures: Callable[[Plan], Iterator[Figure]]
    results: Callable[[Path], Iterator[Figure]] = lambda out: iter(())
    """What its files tell once it has ended, in whatever way."""


STEPS = (
    Step("Tests marked gpu", 0.25, marked_tests.figures),
    Step("A training step of SPAN", 0.25, span_steps.figures),
    Step("Losses", 0.1, losses.figures),
    Step("Whole iterations", 0.2, loops.figures),
    Step("Steps of CSD", 0.1, loops.csd),
    Step("Inference", 0.3, super_resolve.figures),
    Step("A training of SPAN-26 x4", 1.0, training.figures, training.results),
)


def main() -> int:
    """Run what the arguments ask for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=480, metavar="SECONDS")
    parser.add_argument("--assets", type=Path, default=os.environ.get("DSCSR_TEST_ASSETS", ROOT / "../shared/assets"))
    parser.add_argument("--out", type=Path, default=ROOT / "results/gpu")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/gpu.md")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--write", type=Path, metavar="JSON")
    args = parser.parse_args()
    if args.write:
        args.page.write_text(page(json.loads(args.write.read_text(encoding="utf-8"))), encoding="utf-8")
        return 0
    if not args.smoke:
        return measure(args)
    with tempfile.TemporaryDirectory() as folder:
        args.out, args.page = Path(folder), Path(folder, "gpu.md")
        failed = measure(args)
        print(args.page.read_text(encoding="utf-8"))
        if failed:
            print((args.out / "gpu.log").read_text(encoding="utf-8")[-6000:], file=sys.stderr)
        return failed


def measure(args: argparse.Namespace) -> int:
    """All steps; 1 if one of them failed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    args.budget = 3600.0 if args.smoke else args.budget  # whether it works, however busy the machine is
    args.out, assets = args.out.resolve(), args.assets.resolve() if args.assets.is_dir() else None
    plan = Plan(torch.device("cpu"), args.smoke, assets, args.out, began + args.budget)
    record, log = Record(args.out / "gpu.json", args.page), args.out / "gpu.log"
    found: list[dict] = []
    if not args.smoke:
        plan = replace(plan, device=torch.device("cuda"))
    if fault := run_apart(lambda: iter([machine(plan)]), plan.ends, log, found.append):
        print(
            f"gpu.py: error: expected a GPU that PyTorch sees, but got: {fault}. --smoke needs none.", file=sys.stderr
        )
        return 1
    record.content["machine"] = found[0]
    if assets is None:
        record.content["left_out"].append("bsds400, Set5 and the released weights: there is no such folder.")
    dscsr_model.register()  # once, for all processes that are forked
    return max([run(step, replace(plan, ends=_share(step, plan)), record, log) for step in STEPS])


def _share(step: Step, plan: Plan) -> float:
    return time.monotonic() + plan.left * step.share


def run(step: Step, plan: Plan, record: Record, log: Path) -> int:
    """One step; 1 if it failed."""
    began, cpu = time.monotonic(), _cpu_seconds()
    print(f"{step.name}: up to {plan.left:.0f} s", flush=True)
    record.begin(step.name)
    fault: str | None = "stopped from outside"
    tell = partial(_told, record, step.name)
    try:
        fault = run_apart(partial(step.figures, plan), plan.ends, log, tell)
    finally:
        for figure in step.results(plan.out):
            tell(figure)
        seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
        record.end(step.name, fault, seconds, cpu)
    print(f"  {seconds:.1f} s, of processors {cpu:.1f} s" + f"; {fault}" * bool(fault), flush=True)
    missing = [figure for figure in record.content["steps"][step.name]["figures"] if "value" not in figure]
    return int(bool(fault or missing))


def _cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _told(record: Record, step: str, figure: Figure) -> None:
    record.add(step, figure)
    ratio = f" {figure.ratio:.2f}x" if figure.ratio else ""
    print(f"  {figure.what}: {figure.way}: {figure.value} {figure.unit}{ratio} {figure.note}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
