"""Run an ONNX file where it can do no harm: in this script's own process, with little memory and time.

    python onnx_rehearsal.py FILE BYTES SECONDS

It needs NumPy and ONNX Runtime alone, and starts in a quarter of a second. The first line that it writes says what the
file takes and gives, as JSON; then, for each line with a shape that it reads, it runs the file on zeros of it and says
what came of that. Whoever asks reads a process that ends as a file that asks for too much.
"""

import json
import os
import resource
import sys
from typing import Any

answers = sys.stdout
TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def main(path: str, most_bytes: int, most_seconds: int) -> None:
    """Open a file, and run it as often as asked."""
    import numpy as np
    import onnxruntime

    for limit, most in (("DATA", most_bytes), ("CPU", most_seconds), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised

    session: Any = None

    def opened() -> dict[str, Any]:
        nonlocal session
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        ends = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
        described = {name: [[end.name, end.type, end.shape] for end in each] for name, each in ends.items()}
        return {**described, "metadata": session.get_modelmeta().custom_metadata_map}

    def ran(shape: list[int]) -> dict[str, Any]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        given = session.get_inputs()[0]
        (result,) = session.run(None, {given.name: np.zeros(shape, TYPES[given.type])})
        after = resource.getrusage(resource.RUSAGE_SELF)
        grown = (after.ru_maxrss - start) * 1024
        return {"shape": result.shape, "grown": grown, "seconds": after.ru_utime - before}

    answer(opened)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in sys.stdin:
        answer(ran, json.loads(line))


def answer(function: Any, *given: Any) -> None:
    """Write what a call gives, or why it failed."""
    try:
        text = json.dumps(function(*given))
    except Exception as error:  # those of ONNX Runtime have no other common base
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        text = json.dumps({"fault": first[:300].rstrip(".")})
    print(text, file=answers, flush=True)


if __name__ == "__main__":
    del sys.path[0]  # where our own modules are
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where ONNX Runtime, too, prints
    main(sys.argv[1], *map(int, sys.argv[2:]))
