"""LMDBs that BasicSR reads, read by us in whatever process, and faulty ones."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import lmdb
import numpy as np
import pytest

from dscsr_arch.errors import DataError
from dscsr_model.data.lmdb_store import LmdbReader, LmdbWriter, encode, environment, is_raw

NOISE = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path, photographs):
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        for number, image in enumerate(photographs):
            writer.add([encode(f"k{9 - number}", image, "png" if number % 2 else "raw")])
    return tmp_path / "GT.lmdb"


def test_the_map_grows_by_itself(tmp_path):
    with LmdbWriter(tmp_path / "GT.lmdb", map_size=2**18) as writer:
        for first in range(0, 60, 6):
            writer.add([encode(f"{number:03d}", NOISE) for number in range(first, first + 6)])
    assert (tmp_path / "GT.lmdb" / "data.mdb").stat().st_size > 4 * 2**18
    reader = LmdbReader(tmp_path / "GT.lmdb")
    for index in range(60):
        with reader.pixels(index) as image:
            np.testing.assert_array_equal(image, NOISE)


def test_entries_are_added_all_or_none(tmp_path):
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        writer.add([encode("a", NOISE)])
        with pytest.raises(DataError, match=r"GT\.lmdb: Expected every key once, but got `a` again\. Rename the image"):
            writer.add([encode("b", NOISE), encode("a", NOISE)])
        writer.add([encode("c", NOISE)])
    assert LmdbReader(tmp_path / "GT.lmdb").keys == ["a", "c"]
    with environment(tmp_path / "GT.lmdb").begin() as transaction:
        assert transaction.stat()["entries"] == 2


def test_raw_pixels_are_not_copied(path):
    reader = LmdbReader(path)
    with reader.pixels(0) as first, reader.pixels(0) as second:
        assert not first.flags.owndata
        assert not first.flags.writeable
        assert first.ctypes.data == second.ctypes.data


def test_encoded_and_raw_are_told_apart(photographs):
    image = photographs[0]
    for kind in (image, np.full_like(image, 200)):
        for level in range(10):
            png = cv2.imencode(".png", kind, [cv2.IMWRITE_PNG_COMPRESSION, level])[1]
            assert not is_raw(len(png), kind.shape, level)
    assert is_raw(image.size, image.shape, 0)
    assert not is_raw(image.size, image.shape, 1)  # an encoded image that happens to be as long
    assert not is_raw(image.size - 1, image.shape, 0)


def test_one_environment_for_all_readers_of_a_path(path, tmp_path):
    (tmp_path / "link.lmdb").symlink_to(path)
    readers = [LmdbReader(path), LmdbReader(str(path)), LmdbReader(tmp_path / "link.lmdb")]
    for reader in readers:
        with reader.pixels(1) as image:
            assert image.size
    with pytest.raises(lmdb.Error, match=r"already open"):
        lmdb.open(str(path), readonly=True, lock=False)
    del reader, readers
    lmdb.open(str(path), readonly=True, lock=False).close()  # nobody holds it any more


def total(reader):
    values = []
    for index in range(len(reader)):
        with reader.pixels(index) as image:
            values.append(int(image.sum()))
    return values


def into_queue(reader, queue):
    queue.put((os.getpid(), total(reader)))


SPAWN = pytest.param("spawn", True, marks=pytest.mark.slow)


@pytest.mark.parametrize(("method", "used_before"), [("fork", False), ("fork", True), SPAWN])
def test_in_other_processes(path, method, used_before):
    reader, other = LmdbReader(path), LmdbReader(path)
    if used_before:
        assert total(reader) == total(other)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=into_queue, args=(r, queue)) for r in (reader, other)]
    for child in children:
        child.start()
    results = dict(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    assert len(results) == 2
    assert set(map(tuple, results.values())) == {tuple(total(reader))}


def test_threads_open_it_once(path):
    readers = [LmdbReader(path) for _ in range(8)]
    barrier = threading.Barrier(8)

    def read(reader):
        barrier.wait()
        return total(reader)

    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(read, readers))) == 8


def faulty(path, message, index=0):
    reader = LmdbReader(path)
    with pytest.raises(DataError, match=message), reader.pixels(index):
        pass


def test_one_that_somebody_else_has_opened(path):
    other = lmdb.open(str(path), readonly=True, lock=False)
    faulty(path, r"already open in this process.* use PairedCropDataset for both", 1)
    other.close()


def test_values_that_are_missing_or_broken(path):
    meta = path / "meta_info.txt"
    meta.write_text((meta.read_text() + "zz.png (5,5,3) 1\n").replace("k9.png (160,", "k9.png (161,"))
    faulty(path, r"GT\.lmdb: Expected an image `zz`, but got its line in the list only\. Prepare", 5)
    faulty(path, r"raw pixels of \(161, \d+, 3\) as `k9`, but got \d+ bytes that are neither\. `dscsr prepare --ver", 4)
