import os
import resource
import subprocess
import sys

import lmdb
import numpy as np
import pytest

from dscsr_arch.errors import DataError, DiskError
from dscsr_model.data.lmdb_reader import LmdbReader
from dscsr_model.data.lmdb_store import LmdbWriter, encode

NOISE = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["raw", "png"])
def test_layout_is_basicsr_s(tmp_path, image_format):
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        writer.put("a_s001", NOISE, image_format, level=3)
        writer.put("b_s001", NOISE[:30], image_format, level=3)
    assert sorted(os.listdir(tmp_path)) == ["GT.lmdb"]
    assert sorted(os.listdir(tmp_path / "GT.lmdb")) == ["data.mdb", "lock.mdb", "meta_info.txt"]
    level = {"raw": 0, "png": 3}[image_format]
    expected = f"a_s001.png (60,100,3) {level}\nb_s001.png (30,100,3) {level}\n"
    assert (tmp_path / "GT.lmdb" / "meta_info.txt").read_text() == expected


def test_basicsr_reads_png(tmp_path):
    file_client = pytest.importorskip("basicsr.utils.file_client")
    img_util = pytest.importorskip("basicsr.utils.img_util")
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        writer.put("a", NOISE, "png")
    client = file_client.FileClient("lmdb", db_paths=[str(tmp_path / "GT.lmdb")], client_keys=["gt"])
    decoded = img_util.imfrombytes(client.get("a", "gt"))
    np.testing.assert_array_equal(decoded[:, :, ::-1], NOISE)


def test_map_grows_by_itself(tmp_path):
    with LmdbWriter(tmp_path / "GT.lmdb", map_size=2**18) as writer:
        for first in range(0, 60, 6):
            writer.add([encode(f"{number:03d}", NOISE, "raw") for number in range(first, first + 6)])
    assert (tmp_path / "GT.lmdb" / "data.mdb").stat().st_size > 4 * 2**18
    reader = LmdbReader(tmp_path / "GT.lmdb")
    assert len(reader) == 60
    for index in range(60):
        with reader.pixels(index) as image:
            np.testing.assert_array_equal(image, NOISE)


def test_refuses_to_overwrite(tmp_path):
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        writer.put("a", NOISE)
    with pytest.raises(DiskError, match=r"Expected to write .*GT.lmdb, but got .*File exists"):
        LmdbWriter(tmp_path / "GT.lmdb")


def test_wants_the_suffix_that_basicsr_wants(tmp_path):
    with pytest.raises(DataError, match=r"Expected a path that ends in .lmdb, but got .*GT\. Rename"):
        LmdbWriter(tmp_path / "GT")


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "é", "a\nb", "x" * 512])
def test_bad_keys(tmp_path, key):
    with (
        LmdbWriter(tmp_path / "GT.lmdb") as writer,
        pytest.raises(DataError, match=r"Expected a key of 1 to 511 printable ASCII characters"),
    ):
        writer.put(key, NOISE)


def test_key_twice(tmp_path):
    def write():
        with LmdbWriter(tmp_path / "GT.lmdb") as writer:
            writer.put("a", NOISE)
            writer.put("a", NOISE)

    with pytest.raises(DataError, match=r"Expected every key once, but got `a` again"):
        write()


def test_add_is_all_or_nothing(tmp_path):
    with LmdbWriter(tmp_path / "GT.lmdb") as writer:
        writer.put("a", NOISE)
        with pytest.raises(DataError, match=r"every key once"):
            writer.add([encode("b", NOISE), encode("a", NOISE)])
        writer.put("c", NOISE)
    assert LmdbReader(tmp_path / "GT.lmdb").keys == ["a", "c"]
    environment = lmdb.open(str(tmp_path / "GT.lmdb"), readonly=True, lock=False)
    assert environment.stat()["entries"] == 2
    environment.close()


def test_bad_images():
    with pytest.raises(ValueError, match=r"Expected an image \(H, W, 3\) or .* of uint8, but got \(60, 100\) of uint8"):
        encode("a", NOISE[:, :, 0])
    with pytest.raises(ValueError, match=r"of float64"):
        encode("a", NOISE / 255)
    with pytest.raises(ValueError, match=r"Expected `image_format` to be one of .*, but got 'jpg'"):
        encode("a", NOISE, "jpg")


WRITE = """
import sys, numpy as np
from dscsr_model.data.lmdb_store import LmdbWriter
image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
with LmdbWriter(sys.argv[1]) as writer:
    for number in range(int(sys.argv[2])):
        writer.put(f"{number:05d}", image)
        print(number, flush=True)
"""


def test_full_disk(tmp_path):
    """A limit on the size of files stops LMDB's writes in the middle, like a full disk."""
    process = subprocess.run(
        [sys.executable, "-c", WRITE, tmp_path / "GT.lmdb", "100"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5 * 2**20, 5 * 2**20)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "DiskError: Expected room on the disk for" in process.stderr
    assert "Nothing of it is kept. Free some space" in process.stderr
    assert int(process.stdout.split()[-1]) > 3  # it had written a part


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"Expected to write .*GT.lmdb, but got .* Choose another folder"):
        LmdbWriter(tmp_path / "file" / "GT.lmdb")
