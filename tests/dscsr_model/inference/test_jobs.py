"""Names of results, and what of the user's must stay."""

import os
from pathlib import Path

import pytest

from dscsr_arch.errors import DataError, DiskError, DscsrError
from dscsr_model.inference import jobs
from dscsr_model.inference.jobs import check, name_targets, plan


def touch(*files):
    """Empty files: planning reads names only."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    images = ("photo.jpg", "b/ünï cödé.PNG", "b/deep/er.tiff")
    touch(*(root / name for name in (*images, "notes.txt", ".hidden.png", ".git/x.png", "no_suffix")))
    return root


RESULTS = {"photo_x4.png", "b/ünï cödé_x4.png", "b/deep/er_x4.png"}


def targets(found, out):
    return {str(job.target.relative_to(out)) for job in found.jobs}


@pytest.mark.parametrize(
    ("form", "results"),
    [
        ("png", {"a.jpg": "a_jpg_x4.png", "A.png": "A_png_x4.png", "b.png": "b_x4.png", "c/a.webp": "c/a_x4.png"}),
        ("same", {"a.jpg": "a_x4.jpg", "a.png": "a_x4.png"}),
    ],
)
def test_same_names_keep_their_suffix(form, results):
    assert name_targets(list(results), 4, form) == results


def test_same_names_in_spite_of_that():
    with pytest.raises(DscsrError, match=r"a name of its own for every result, but got one name for a.jpg, a_jpg.png"):
        name_targets(["a.jpg", "a.png", "a_jpg.png"], 4, "png")


def test_results_that_are_there_stay(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo_x4.png").symlink_to(tmp_path / "nowhere")  # a broken link is there, too
    found = plan(folder, out, 4)
    assert found.there == [out / "photo_x4.png"]
    assert "photo_x4.png" not in targets(found, out)
    assert "photo_x4.png" in targets(plan(folder, out, 4, replace=True), out)
    with pytest.raises(DscsrError, match=r"new file, but got .*photo_x4.png`, which exists. Add --force, or choose"):
        plan(folder / "photo.jpg", out, 4)
    assert len(plan(folder / "photo.jpg", out, 4, replace=True).jobs) == 1


@pytest.mark.parametrize("where", ["in/b/out", "elsewhere/out"])
@pytest.mark.parametrize("link", [False, True])
def test_results_inside_of_the_input_are_no_input(folder, tmp_path, where, link):
    """Nor are those in a folder that the input links to."""
    touch(tmp_path / "elsewhere/c.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    out = tmp_path / where
    out.mkdir(exist_ok=True)
    if link:
        (tmp_path / "link").symlink_to(out)
        out = tmp_path / "link"
    first = plan(folder, out, 4)
    assert targets(first, out) == RESULTS | {"link/c_x4.png"}
    touch(*(job.target for job in first.jobs))
    again = plan(folder, out, 4)
    assert (again.jobs, len(again.there)) == ([], 4)


@pytest.mark.parametrize("link", [False, True])
def test_results_beside_the_input_are_no_input(folder, tmp_path, link):
    out = folder
    if link:
        (tmp_path / "link").symlink_to(folder)
        out = tmp_path / "link"
    touch(*(folder / name for name in ("photo_x4.png", "photo_x4_x4.png", "other_x4.png")))
    found = plan(folder, out, 4)
    # other_x4.png is nobody's result: an image like any other.
    assert targets(found, out) == RESULTS - {"photo_x4.png"} | {"other_x4_x4.png"}
    assert found.there == [out / "photo_x4.png"]
    with pytest.raises(DscsrError, match=r"results only that --force replaces, but got .*photo_x4.png, which -i reads"):
        plan(folder, out, 4, replace=True)


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_force_never_overwrites_a_source_through_links(folder, tmp_path, make):
    (tmp_path / "out").mkdir()
    make(folder / "photo.jpg", tmp_path / "out" / "photo_x4.png")
    with pytest.raises(DscsrError, match="which -i reads"):
        plan(folder, tmp_path / "out", 4, replace=True)


def test_nothing_to_do(tmp_path):
    with pytest.raises(DataError, match=r"Expected images .* but (got|found) nothing"):
        plan(tmp_path, tmp_path / "out", 4)
    touch(tmp_path / "a.txt", tmp_path / "out" / "a_x4.png")
    with pytest.raises(DscsrError, match=r"Expected an image \(\.png, .*\) as -i, but got .*a\.txt"):
        plan(tmp_path / "a.txt", tmp_path / "out", 4)
    with pytest.raises(DscsrError, match="but got only such as lie in -o"):
        plan(tmp_path, tmp_path / "out", 4)


def test_what_is_checked_first(folder, tmp_path, monkeypatch):
    touch(tmp_path / "file")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for out, what in (("file", "a file"), ("new.png", "the name of one"), ("broken", "a broken link")):
        with pytest.raises(DscsrError, match=f"Expected a folder as -o, but got .*{out}, {what}"):
            check(folder, tmp_path / out)
    for source, what in (("pipe.png", "which is neither. Choose"), ("none", "No such file or directory. Correct")):
        with pytest.raises(DscsrError, match=f"Expected an image or a folder as -i, but got .*{source}.*{what}"):
            check(tmp_path / source, tmp_path)

    def deny(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", deny)
    with pytest.raises(DiskError, match=r"Expected .*closed.*Permission denied"):
        check(tmp_path, tmp_path / "closed")


def test_the_output_folder(tmp_path, monkeypatch):
    new, full = tmp_path / "new" / "out", tmp_path / "out"
    with jobs.made(new):
        assert new.is_dir()
    assert not new.exists(), "nothing was written"
    for _ in range(2):
        with jobs.made(full):
            touch(full / "a.png")
    assert (full / "a.png").exists()
    with pytest.raises(DiskError, match=r"Expected to write .*a.png"), jobs.made(full / "a.png" / "out"):
        pytest.fail("there is no such folder")
    monkeypatch.setattr(jobs.os, "access", lambda *_: False)
    with pytest.raises(DscsrError, match="Expected a folder as -o that can be written to, but"), jobs.made(tmp_path):
        pytest.fail("it cannot be written to")
