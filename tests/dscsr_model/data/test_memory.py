"""Free memory as the kernel tells it."""

import pytest
import torch

from dscsr_model.data import memory


def test_free_memory_is_what_this_machine_has():
    assert 2**26 < memory.free_memory(torch.device("cpu")) < 2**45


def test_meminfo(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  999 kB\nMemAvailable:   1234 kB\n")
    assert memory._free_of_machine(tmp_path / "meminfo") == 1234 * 1024
    assert memory._free_of_machine(tmp_path / "none") > 2**26


@pytest.mark.parametrize("version", [1, 2])
def test_limit_of_a_container(tmp_path, version):
    limit, used, cache = (
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
        if version == 1
        else ("memory.max", "memory.current", "inactive_file")
    )
    assert memory._free_of_container(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / used).write_text("700\n")
    (tmp_path / used).with_name("memory.stat").write_text(f"anon 5\n{cache} 100\n")
    assert memory._free_of_container(tmp_path) == 400
    (tmp_path / limit).write_text("max\n")
    assert memory._free_of_container(tmp_path) is None
