"""`make gpu` without a GPU: all of it runs, and what ends it loses nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


def test_smoke_runs_all_of_it(run_python):
    done = run_python(SCRIPT, "--smoke", env={"OMP_NUM_THREADS": "1"}, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "not measured" not in done.stdout
    assert "| tests marked gpu | all |" in done.stdout
    assert "merged, bf16, channels_last, compiled" in done.stdout
    assert "span_x4_trained.pth" in done.stdout


def test_a_page_of_what_was_found_before_it_was_stopped(run_python, tmp_path):
    """SIGTERM in the middle of a step: its figures so far are kept, and what it has started ends with it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    program = f"""
import sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.argv = ["gpu.py", "--smoke"]
import gpu
from gpu_steps.plan import Figure

def never_ending(plan):
    yield Figure("something", "some way", 1.5)
    raise_nothing = [time.sleep(600)]

def failing(plan):
    yield Figure("another", "way", 2.5)
    raise RuntimeError("no compiler here")

gpu.STEPS = (gpu.Step("First", 1.0, failing), gpu.Step("Second", 1.0, never_ending))
from argparse import Namespace
from pathlib import Path
out = Path({str(tmp_path)!r})
sys.exit(gpu.measure(Namespace(out=out, page=out / "gpu.md", assets=Path("missing"), smoke=True, budget=600)))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        for line in process.stdout:
            if "some way" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert steps["First"]["fault"] == "RuntimeError: no compiler here"
    assert steps["First"]["figures"] == [{"what": "another", "way": "way", "value": 2.5, "unit": "ms"}]
    assert steps["Second"]["fault"] == "stopped from outside"
    assert "| something | some way | 1.500 ms |" in (tmp_path / "gpu.md").read_text()
