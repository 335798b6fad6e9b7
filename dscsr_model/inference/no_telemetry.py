"""ONNX Runtime and OpenVINO without their telemetry: imported plainly, both report their use without asking.

ONNX Runtime does since 1.29 (to Microsoft, on Linux and macOS, from its first session on, with an id that it keeps in
the home folder); OpenVINO from its import on (to Google Analytics, likewise). What the user's own code has imported
before is left as it is.
"""

from __future__ import annotations

import os
import sys
from typing import Any

ORT_SWITCH = "ORT_DISABLE_TELEMETRY"
"""Read by ONNX Runtime once per process; whoever has set it keeps their value."""
_OPENVINO_TELEMETRY = "openvino_telemetry"


def import_onnxruntime() -> Any:
    """The package ``onnxruntime``."""
    os.environ.setdefault(ORT_SWITCH, "1")
    import onnxruntime

    return onnxruntime


def import_openvino() -> Any:
    """The package ``openvino``. It does without the package that sends, which cannot be found for this import."""
    absent = object()
    there = sys.modules.get(_OPENVINO_TELEMETRY, absent)
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
    try:
        import openvino
    finally:
        del sys.modules[_OPENVINO_TELEMETRY]
        if there is not absent:
            sys.modules[_OPENVINO_TELEMETRY] = there  # type: ignore[assignment]
    return openvino
