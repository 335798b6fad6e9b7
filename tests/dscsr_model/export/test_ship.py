import os

import pytest
import torch

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import DscsrError
from dscsr_model.export.formats import FORMATS, choose
from dscsr_model.export.ship import ship


@pytest.fixture
def network():
    return SPAN(feature_channels=4, upscale=2).eval()


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_files_are_for_everybody(network, tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    for name in ("out.pth", "out.safetensors", "OUT.SAFETENSORS"):
        path = ship(network, tmp_path / name, choose(name, None, "w.pth", False)[1]).path
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def fails(network, path, half):
    path.write_bytes(b"half a file")
    raise DscsrError("no")


def writes_another(network, path, half):
    torch.manual_seed(5)
    FORMATS["pth"].write(SPAN(feature_channels=4, upscale=2), path, half=half)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"write": fails}, "no"),
        ({"write": writes_another}, "Expected the file, read by dscsr's load_model, to do what the network does"),
        ({"write": lambda network, path, half: path.write_bytes(b"")}, "Expected a whole weight file"),
        ({"readers": {"a reader": lambda *_: lambda x: x}}, "Expected the file, read by a reader, to make"),
    ],
)
def test_nothing_stays_of_what_is_wrong(network, tmp_path, changes, message):
    old, form = tmp_path / "out.pth", FORMATS["pth"]._replace(**changes)
    old.write_bytes(b"old")
    for path in (old, tmp_path / "new" / "out.pth"):
        with pytest.raises(Exception, match=message):
            ship(network, path, form, force=True)
    assert old.read_bytes() == b"old"
    assert names(tmp_path) == ["out.pth"]


def test_nothing_is_overwritten_unasked(network, tmp_path):
    path = tmp_path / "out.pth"

    def write(network, temporary, half):
        FORMATS["pth"].write(network, temporary, half=half)
        path.write_bytes(b"another's")

    late = FORMATS["pth"]._replace(write=write)
    for form in (late, FORMATS["pth"]):  # the file came while it was written; it was there before
        with pytest.raises(DscsrError, match=r"something new to write, but got .*out\.pth, which exists. Pass --force"):
            ship(network, path, form)
        assert path.read_bytes() == b"another's"
    ship(network, path, FORMATS["pth"], force=True)
    load_model(path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(DscsrError, match=r"Expected a file name, but got .*, which is a folder"):
        ship(network, tmp_path / "folder.pth", FORMATS["pth"], force=True)
    assert names(tmp_path) == ["folder.pth", "out.pth"]


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_the_source_is_never_overwritten(network, tmp_path, link):
    source, out = tmp_path / "net.pth", tmp_path / "out.pth"
    torch.save(network.state_dict(), source)
    before = source.read_bytes()
    if link == "same":
        out = tmp_path / "." / "net.pth"
    elif link == "hard":
        os.link(source, out)
    else:
        out.symlink_to(source)
    with pytest.raises(DscsrError, match="beside the source, but got the source itself"):
        ship(network, out, FORMATS["pth"], force=True, sources=[source])
    assert source.read_bytes() == before
