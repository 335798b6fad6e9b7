"""LMDB itself is the oracle: every value with pages of its own, byte by byte."""

import shutil

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dscsr_model.data.lmdb_pages import value_places


def assert_right(folder, smallest=4096):
    data = (folder / "data.mdb").read_bytes()
    places = value_places(folder)
    environment = lmdb.open(str(folder), readonly=True, lock=False)
    with environment.begin() as transaction:
        values = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    environment.close()
    for key, (offset, length) in places.items():
        assert data[offset : offset + length] == values[key]
    assert {key for key, value in values.items() if len(value) >= smallest} <= places.keys() <= values.keys()
    return len(places)


@pytest.mark.parametrize("count", [1, 50, 5000])
def test_every_large_value(tmp_path, count):
    rng = np.random.default_rng(0)
    environment = lmdb.open(str(tmp_path), map_size=2**28)
    for first in range(0, count, 700):
        with environment.begin(write=True) as transaction:
            for number in range(first, min(first + 700, count)):
                transaction.put(b"%0*d" % (5 + number % 90, number), rng.bytes(int(rng.integers(4096, 9000))))
    assert count < 5000 or environment.stat()["depth"] >= 3
    environment.close()
    assert assert_right(tmp_path) == count


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([None, 10, 1900, 2040, 2100, 5000, 20000])),
        min_size=1,
        max_size=60,
    )
)
def test_after_changes_and_removals(steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmdb")
    rng = np.random.default_rng(len(steps))
    environment = lmdb.open(str(folder), map_size=2**26)
    for number, length in steps:
        with environment.begin(write=True) as transaction:
            if length is None:
                transaction.delete(b"key%d" % number)
            else:
                transaction.put(b"key%d" % number, rng.bytes(length))
    environment.close()
    assert_right(folder)
    shutil.rmtree(folder)


@pytest.fixture
def folder(tmp_path):
    environment = lmdb.open(str(tmp_path), map_size=2**26)
    with environment.begin(write=True) as transaction:
        for number in range(100):
            transaction.put(b"%d" % number, bytes(10000))
    environment.close()
    return tmp_path


@pytest.mark.parametrize("size", [0, 10, 4000, 5000, 9000, 400000])
def test_truncated(folder, size):
    assert len(value_places(folder)) == 100
    with open(folder / "data.mdb", "r+b") as file:
        file.truncate(size)
    assert value_places(folder) == {}


def test_other_versions_and_other_files(folder):
    data = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(data[:20] + b"\x02" + data[21:])
    assert value_places(folder) == {}
    (folder / "data.mdb").write_bytes(b"nonsense" * 10000)
    assert value_places(folder) == {}


def test_garbage_in_the_tree_ends(folder):
    rng = np.random.default_rng(0)
    data = bytearray((folder / "data.mdb").read_bytes())
    for _ in range(50):
        broken = bytearray(data)
        for position in rng.integers(8192, len(data), 3000):
            broken[position] = int(rng.integers(0, 256))
        (folder / "data.mdb").write_bytes(broken)
        places = value_places(folder)  # whatever it finds, it ends, and it finds nothing outside of the file
        assert all(0 <= start <= start + size <= len(data) for start, size in places.values())


def test_empty(tmp_path):
    lmdb.open(str(tmp_path)).close()
    assert value_places(tmp_path) == {}
