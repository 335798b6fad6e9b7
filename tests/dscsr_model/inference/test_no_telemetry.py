"""Engines of other programs report nothing: no file in the home folder, no name looked up, in a process of its own."""

from importlib.util import find_spec

import pytest

CODE = """
import os, sys
for name in ("ORT_DISABLE_TELEMETRY", "CI"):
    os.environ.pop(name, None)
def audit(event, arguments):
    assert event not in ("socket.connect", "socket.getaddrinfo"), (event, arguments)
sys.addaudithook(audit)
from pathlib import Path
from dscsr_arch import SPAN
from dscsr_model.cli.backend import write
from dscsr_model.inference.backends import BACKENDS, open_network
from torch import rand
network = SPAN(feature_channels=4, upscale=2)
for name in {names}:
    open_network(BACKENDS[name], network, Path("."), write)(rand(1, 3, 8, 8))
print(sorted(os.listdir(Path.home())))
"""


def test_nothing_is_reported(tmp_path, run_python):
    names = [name for name in ("onnx", "openvino") if find_spec({"onnx": "onnxruntime"}.get(name, name))]
    if not names:
        pytest.skip("extras: onnx, openvino")
    home = tmp_path / "home"
    home.mkdir()
    result = run_python("-c", CODE.replace("{names}", str(names)), env={"HOME": str(home)}, check=True)
    assert result.stdout == "[]\n"
