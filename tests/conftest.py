"""Shared by all tests: a fixed seed, the optional assets, and a way to run Python in a process of its own."""

import os
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import ONNX Runtime themselves
# The networks of the tests are tiny: a second thread costs more than it brings, above all on a busy machine.
torch.set_num_threads(1)
# No test takes the power away: what processes write outlives them, and a disk that is busy makes each wait.
os.fsync = lambda handle: None
# A busy machine is no fault of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - BasicSR's own code draws from the global generator
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Where a test runs: on the CPU, which shows that it is right, and on a GPU, in numbers that are float32."""
    if request.param == "cuda":
        request.getfixturevalue("gpu")
    return torch.device(request.param)


@pytest.fixture
def gpu(monkeypatch) -> torch.device:
    """A GPU that computes in float32, not TF32, or a skip."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch sees")
    for module in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(module, "allow_tf32", False)
    return torch.device("cuda")


@pytest.fixture
def assets() -> Path:
    """Folder of released weights and photographs (not part of the project), or a skip that says why."""
    folder = os.environ.get("DSCSR_TEST_ASSETS")
    if not folder:
        pytest.skip("needs the assets folder: set DSCSR_TEST_ASSETS to it")
    if not Path(folder).is_dir():
        pytest.fail(f"DSCSR_TEST_ASSETS names a folder that does not exist: {folder}")
    return Path(folder)


@pytest.fixture
def spandrel():
    """The real spandrel; it imports torchvision, which BasicSR's mend makes possible beside a CPU build of torch."""
    from dscsr_model.host.compat import patch_imports

    patch_imports()
    return pytest.importorskip("spandrel", reason="spandrel (extra: test) is not installed")


@pytest.fixture
def backend(request):
    """The name of each backend (indirect parameters), or a skip where it is not installed."""
    from dscsr_arch.errors import UnavailableError
    from dscsr_model.inference.backends import BACKENDS

    try:
        if request.param in BACKENDS:
            BACKENDS[request.param].require()
    except UnavailableError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def without_workers(monkeypatch):
    """Preparing and verifying data in this process: a worker takes longer to start than such a test takes."""
    from dscsr_model.data import prepare, verify

    @contextmanager
    def here(_):
        yield SimpleNamespace(in_order=lambda function, items, *_: map(function, items))

    for module in (prepare, verify):
        monkeypatch.setattr(module, "worker_pool", here)


@pytest.fixture
def run_python(tmp_path):
    """Run ``python *args`` in an own process with ``tmp_path`` as working directory; returns CompletedProcess."""

    def run(*args, cwd=tmp_path, env=None, check=False, timeout=300):
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    return run
