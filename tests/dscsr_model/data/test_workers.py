import os
import signal
import subprocess
import sys
import time

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.data.workers import worker_pool


def square(number):
    time.sleep(0.02 * (number % 3))
    return number**2


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_in_order_and_few_ahead():
    taken = []

    def numbers():
        for number in range(20):
            taken.append(number)
            yield number

    with worker_pool(2) as pool:
        results = pool.in_order(square, numbers())
        assert next(results) == 0
        assert len(taken) <= 6
        assert list(results) == [number**2 for number in range(1, 20)]
        taken.clear()
        results = pool.in_order(square, numbers(), weight=lambda number: 4, most=10)
        assert next(results) == 0
        assert taken == [0, 1, 2]  # two are under way, the third waits
        assert list(results) == [number**2 for number in range(1, 20)]
        assert next(pool.in_order(square, [3], weight=lambda number: 11, most=10)) == 9


def test_killed_worker():
    with worker_pool(2) as pool, pytest.raises(DscsrError, match=r"2 worker processes to live, .* Use fewer"):
        list(pool.in_order(die, range(3)))


def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(
        "import os, time\n"
        "from dscsr_model.data.workers import worker_pool\n"
        "def sleep(seconds):\n"
        "    os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "    time.sleep(seconds)\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(2) as pool:\n"
        "        list(pool.in_order(sleep, [600, 600]))\n"
    )
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
