"""Run a file of another program where it can do no harm: in this script's own process, with little memory and time.

    python rehearsal_process.py onnx|ncnn FILE BYTES SECONDS

It needs NumPy and ONNX Runtime or ncnn alone, and starts in a quarter of a second. The first line that it writes says
what the file takes and gives, as JSON; then, for each line with a shape that it reads, it runs the file on zeros of it
and says what came of that. Whoever asks reads a process that ends as a file that asks for too much.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

answers = sys.stdout
TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}

Run = Callable[[list[int]], tuple[int, ...]]
"""The shape that comes of zeros of a shape."""


def main(kind: str, path: str, most_bytes: int, most_seconds: int) -> None:
    """Open a file, and run it as often as asked."""
    for limit, most in (("DATA", most_bytes), ("CPU", most_seconds), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    run: Run

    def opened() -> dict[str, Any]:
        nonlocal run
        described, run = OPEN[kind](path)
        return described

    def ran(shape: list[int]) -> dict[str, Any]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        result = run(shape)
        after = resource.getrusage(resource.RUSAGE_SELF)
        grown = (after.ru_maxrss - start) * 1024
        return {"shape": result, "grown": grown, "seconds": after.ru_utime - before}

    answer(opened)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in sys.stdin:
        answer(ran, json.loads(line))


def open_onnx(path: str) -> tuple[dict[str, Any], Run]:
    """What an ONNX file says of itself, and how it is run."""
    import numpy as np

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # see no_telemetry
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ends = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    described = {name: [[end.name, end.type, end.shape] for end in each] for name, each in ends.items()}

    def run(shape: list[int]) -> tuple[int, ...]:
        given = session.get_inputs()[0]
        (result,) = session.run(None, {given.name: np.zeros(shape, TYPES[given.type])})
        return tuple(result.shape)

    return {**described, "metadata": session.get_modelmeta().custom_metadata_map}, run


def open_ncnn(path: str) -> tuple[dict[str, Any], Run]:
    """The names of the ends of an ncnn file, and how it is run, on batches of one image."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = 1
    if net.load_param(path) or net.load_model(f"{os.path.splitext(path)[0]}.bin"):
        raise ValueError("ncnn cannot read it")
    inputs, outputs = net.input_names(), net.output_names()

    def run(shape: list[int]) -> tuple[int, ...]:
        image = np.zeros(shape[1:], np.float32)  # it and its copy have to live: ncnn keeps neither
        given = ncnn.Mat(image).clone()  # layers may write into it
        with net.create_extractor() as extractor:
            extractor.input(inputs[0], given)
            code, result = extractor.extract(outputs[0])
            if code:
                raise ValueError(f"ncnn gives up with code {code}")
            return (1, *np.array(result).shape)

    return {"inputs": inputs, "outputs": outputs}, run


OPEN = {"onnx": open_onnx, "ncnn": open_ncnn}


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
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
