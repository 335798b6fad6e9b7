import os

import pytest

from dscsr_arch.errors import DataError
from dscsr_model.data.pairing import find_images, key_of, keys_of, pair, search_images


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_finds_images_in_folders_inside(tmp_path):
    touch(tmp_path, "b.PNG", "a.jpg", "deep/er/c.webp", "d.tiff", ".hidden.png", ".cache/e.png", "notes.txt", "._a.jpg")
    assert find_images(tmp_path) == ["a.jpg", "b.PNG", "d.tiff", "deep/er/c.webp"]


def test_nothing_but_other_files(tmp_path):
    touch(tmp_path, "a.zip", "b.txt")
    with pytest.raises(DataError, match=r"but got only 1 \.zip, 1 \.txt\. Correct"):
        find_images(tmp_path)


def test_links_lead_into_each_folder_once(tmp_path):
    """By its own path where it is inside; and none leads round in a circle."""
    touch(tmp_path, "in/z/a.png", "out/b.png", "out/deep/c.png")
    for link, target in {
        "in/a": "in/z", "in/link": "out", "in/once_more": "out", "in/z/up": "in", "out/back": "in",
        "in/self": "in/self", "in/gone.png": "nowhere", "in/d.png": "out/b.png",
    }.items():  # fmt: skip
        (tmp_path / link).symlink_to(tmp_path / target)
    os.mkfifo(tmp_path / "in/pipe.png")
    touch(tmp_path, "in/x.gif", "in/z/y.GIF", "in/README")
    found, others = search_images(tmp_path / "in")
    assert found == ["d.png", "gone.png", "link/b.png", "link/deep/c.png", "z/a.png"]
    assert others == {".gif": 2, "without a suffix": 2, "pipe or device": 1}


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def deny(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=r"Expected folders that can be read, but got .*Permission denied: "):
        search_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("0001.png", "0001"),
        ("my photo.v2.jpeg", "my_photo_v2"),
        ("0001000/0000001.png", "0001000_0000001"),
        ("café.png", "caf%C3%A9"),
        ("日本.png", "%E6%97%A5%E6%9C%AC"),
        ("a%b.png", "a%25b"),
    ],
)
def test_keys(name, key):
    assert key_of(name) == key
    assert key.isascii()
    assert "." not in key


def test_two_names_of_one_key():
    assert keys_of(["a.png", "b.png"]) == {"a.png": "a", "b.png": "b"}
    with pytest.raises(DataError, match=r"a key of its own .* one for several: `a_b`: a\.b\.png, a/b\.jpg\. Rename"):
        keys_of(["a.b.png", "a/b.jpg", "c.png"])
    with pytest.raises(DataError, match=r"`a`: a\.png, a\.jpg"):
        keys_of(["a.png", "a.jpg"])


def test_key_too_long():
    with pytest.raises(DataError, match=r"Expected names of at most 500 characters .* but got 日"):
        keys_of(["日" * 80 + ".png"])


@pytest.mark.parametrize(
    "lr_name",
    [
        *("0001.png", "0001.jpg", "0001x4.png", "0001_x4.png", "x4/0001.png", "X4/0001x4.png"),
        *("LRBI/x4/0001.png", "LRBI/x4/0001_LRBI_x4.png", "LR_bicubic/X4/0001x4.png"),
    ],
)
def test_names_of_lr_images(lr_name):
    assert pair(["0001.png"], [lr_name], 4) == {"0001.png": lr_name}
    with_others = [lr_name, "0002.png", lr_name.replace("4", "2"), lr_name.replace("4", "3")]
    if "4" in lr_name:
        assert pair(["0001.png"], with_others, 4) == {"0001.png": lr_name}


def test_hr_names_with_additions():
    assert pair(["baby_HR_x4.png"], ["x4/baby_LRBI_x4.png"], 4) == {"baby_HR_x4.png": "x4/baby_LRBI_x4.png"}
    assert pair(["img_001_SRF_4_HR.png"], ["img_001_SRF_4_LR.png"], 4)
    assert pair(["img_x2.png"], ["img_x2.png"], 4) == {"img_x2.png": "img_x2.png"}
    assert pair(["img_x2.png"], ["img_x2x4.png"], 4) == {"img_x2.png": "img_x2x4.png"}
    names = {"s/a.png": "s/ax4.png", "t/a.png": "t/ax4.png"}
    assert pair([*names], [*names.values()], 4) == names


def test_unpaired():
    with pytest.raises(DataError, match=r"Expected an LR image ×4 for every HR image, but got none for b\.png, c\.png"):
        pair(["a.png", "b.png", "c.png"], ["a.png", "d.png"], 4)
    with pytest.raises(DataError, match=r"got none for a\.png"):
        pair(["a.png"], ["x2/a.png"], 4)
    with pytest.raises(DataError, match=r"Expected one LR .* several for a\.png \(LRBI/x4/a\.png, LRBD/x4/a\.png\)"):
        pair(["a.png"], ["LRBI/x4/a.png", "LRBD/x4/a.png"], 4)
    with pytest.raises(DataError, match=r"and 5 more images"):
        pair([f"{n}.png" for n in range(15)], ["a.png"], 4)
