import ctypes
import mmap
import multiprocessing
import os
import pickle
import shutil
import threading

import cv2
import lmdb
import numpy as np
import pytest

from dscsr_arch.errors import DataError
from dscsr_model.data import lmdb_reader
from dscsr_model.data.lmdb_reader import LmdbReader, is_bare, read_meta
from dscsr_model.data.lmdb_store import LmdbWriter


@pytest.fixture
def path(tmp_path, photographs):
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        for number, image in enumerate(photographs):
            writer.put(f"k{9 - number}", image, "png" if number % 2 else "raw")
    return tmp_path / "GT.lmdb"


def test_pixels_in_the_order_of_sorted_keys(path, photographs):
    reader = LmdbReader(path)
    assert reader.keys == ["k5", "k6", "k7", "k8", "k9"]
    assert reader.key(0) == "k5"
    for index, image in enumerate(reversed(photographs)):
        assert tuple(reader.shapes[index]) == image.shape
        with reader.pixels(index) as pixels:
            np.testing.assert_array_equal(pixels, image)


def test_bare_pixels_are_not_copied(path):
    reader = LmdbReader(path)
    with reader.pixels(0) as first, reader.pixels(0) as second:
        assert not first.flags.owndata
        assert not first.flags.writeable
        assert first.ctypes.data == second.ctypes.data


def test_one_environment_for_all_readers_of_a_path(path, tmp_path):
    (tmp_path / "link.lmdb").symlink_to(path)
    readers = [LmdbReader(path), LmdbReader(str(path)), LmdbReader(tmp_path / "link.lmdb")]
    for reader in readers:
        with reader.pixels(1) as image:  # encoded
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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("used_before", [False, True])
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


def test_pickled_at_any_time(path):
    reader = LmdbReader(path)
    before = pickle.loads(pickle.dumps(reader))
    assert total(reader) == total(before)
    with reader.pixels(0):
        after = pickle.loads(pickle.dumps(reader))
    assert total(after) == total(reader)


def test_threads_open_it_once(path):
    readers = [LmdbReader(path) for _ in range(8)]
    barrier, results = threading.Barrier(8), []

    def read(reader):
        barrier.wait()
        results.append(total(reader))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8


def test_reads_lmdbs_of_basicsr(tmp_path, folder, photographs):
    lmdb_util = pytest.importorskip("basicsr.utils.lmdb_util")
    names = sorted(os.listdir(folder))
    lmdb_util.make_lmdb_from_imgs(
        str(folder), str(tmp_path / "GT.lmdb"), names, [name.split(".")[0] for name in names], map_size=2**30
    )
    reader = LmdbReader(tmp_path / "GT.lmdb")
    assert reader.keys == [f"photo{n}" for n in range(5)]
    for index, image in enumerate(photographs):
        with reader.pixels(index) as pixels:
            np.testing.assert_array_equal(pixels, image)


def test_encoded_and_bare_are_told_apart(photographs):
    image = photographs[0]
    for kind in (image, np.full_like(image, 200)):
        for level in range(10):
            png = cv2.imencode(".png", kind, [cv2.IMWRITE_PNG_COMPRESSION, level])[1]
            assert not is_bare(len(png), kind.shape, level)
    assert is_bare(image.size, image.shape, 0)
    assert not is_bare(image.size, image.shape, 1)  # an encoded image that happens to be as long
    assert not is_bare(image.size, (*image.shape[:2], 1), 0)
    assert not is_bare(image.size - 1, image.shape, 0)


def test_where_places_are_unknown_lmdb_is_asked(path, photographs, monkeypatch):
    monkeypatch.setattr(lmdb_reader, "value_places", lambda path: {})
    reader = LmdbReader(path)
    for index, image in enumerate(reversed(photographs)):
        reader.expect(index, 0, 10)
        with reader.pixels(index) as pixels:
            np.testing.assert_array_equal(pixels, image)


def test_expected_rows_and_only_they_are_fetched(tmp_path):
    """Pages of the file that are in memory, after it was thrown out of it."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        writer.put("a", noise)
    file = tmp_path / "GT.lmdb" / "data.mdb"
    reader = LmdbReader(tmp_path / "GT.lmdb")
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(file) > 100:
        pytest.skip("this file system keeps files in memory")
    reader.expect(0, 1000, 100)
    with reader.pixels(0) as image:
        np.testing.assert_array_equal(image[1000:1100], noise[1000:1100])
    assert 100 * 6000 / 4096 <= pages_in_memory(file) < 1000  # of 2,930


def pages_in_memory(file):
    libc = ctypes.CDLL(None)
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
        view = np.frombuffer(data, np.uint8)
        pages = (ctypes.c_ubyte * (-(-len(view) // mmap.PAGESIZE)))()
        failed = libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)), pages)
        del view
        return -1 if failed else sum(page & 1 for page in pages)


def test_truncated_file(path):
    for names in ([0], [1]):  # bare and encoded
        with open(path / "data.mdb", "r+b") as opened:
            opened.truncate((path / "data.mdb").stat().st_size - 4096)
        reader = LmdbReader(path)
        with (
            pytest.raises(DataError, match=r"Expected a whole LMDB, but .*data.mdb is truncated at"),
            reader.pixels(*names),
        ):
            pass


def test_faulty_folders(tmp_path, path):
    with pytest.raises(DataError, match=r"Expected an LMDB with data.mdb and meta_info.txt, but .* has not both"):
        LmdbReader(tmp_path / "none.lmdb")
    meta = path / "meta_info.txt"
    lines = meta.read_text()
    meta.write_text(lines + "nonsense\n")
    with pytest.raises(DataError, match=r"but got 'nonsense' in line 6, which is not understood"):
        read_meta(path)
    meta.write_text(lines + lines.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"in line 6, which names `.*` for the second time \(BasicSR cuts"):
        read_meta(path)


def test_missing_and_broken_values(path):
    meta = path / "meta_info.txt"
    meta.write_text(meta.read_text() + "zz.png (5,5,3) 1\n")
    reader = LmdbReader(path)
    with pytest.raises(DataError, match=r"Expected `zz` in .*, but it is only in its list"), reader.pixels(5):
        pass
    meta.write_text(meta.read_text().replace("k9.png (160,", "k9.png (161,"))
    reader = LmdbReader(path)
    with pytest.raises(DataError, match=r"bare bytes as `k9` .* that do not decode"), reader.pixels(4):
        pass


def test_broken_file(path, tmp_path):
    shutil.copytree(path, tmp_path / "B.lmdb")
    (tmp_path / "B.lmdb" / "data.mdb").write_bytes(b"nonsense" * 2000)
    with (
        pytest.raises(DataError, match=r"Expected an LMDB that opens, but got:"),
        LmdbReader(tmp_path / "B.lmdb").pixels(0),
    ):
        pass


def test_opened_by_others(path):
    environment = lmdb.open(str(path), readonly=True, lock=False)
    reader = LmdbReader(path)
    with (
        pytest.raises(DataError, match=r"already open in this process.* use PairedCropDataset for both"),
        reader.pixels(1),
    ):
        pass
    environment.close()
    assert total(reader)
