import os
import subprocess
import sys

import pytest
import torch

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import DiskError, DscsrError
from dscsr_model.export.formats import FORMATS, Check, choose
from dscsr_model.export.ship import ship


@pytest.fixture
def network():
    return SPAN(feature_channels=4, upscale=2).eval()


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_what_was_written_is_told(network, tmp_path):
    shipped = ship(network, tmp_path / "new" / "out.pth", FORMATS["pth"])
    assert names(tmp_path / "new") == ["out.pth"]
    assert shipped.bytes == (tmp_path / "new" / "out.pth").stat().st_size
    assert shipped.parameters == sum(p.numel() for p in load_model(shipped.path).parameters())
    assert shipped.metadata.arguments["feature_channels"] == 4
    assert list(shipped.differences) == ["dscsr's load_model"]


def test_files_are_for_everybody(network, tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    for name in ("out.pth", "out.safetensors", "OUT.SAFETENSORS"):
        path = ship(network, tmp_path / name, choose(name, None, "w.pth", False)[1]).path
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def broken(write, read=None):
    form = FORMATS["pth"]
    return form._replace(write=write, **({} if read is None else {"checks": read}))


def fails(network, path, half):
    path.write_bytes(b"half a file")
    raise DscsrError("no")


def writes_another(network, path, half):
    torch.manual_seed(5)
    FORMATS["pth"].write(SPAN(feature_channels=4, upscale=2), path, half)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (broken(fails), "no"),
        (broken(writes_another), "Expected the file, read by dscsr's load_model, to do what the network does"),
        (broken(lambda network, path, half: path.write_bytes(b"")), "Expected a whole weight file"),
        (
            broken(FORMATS["pth"].write, lambda path, name: [Check("a reader", lambda x: x)]),
            "Expected the file, read by a reader, to make",
        ),
    ],
)
def test_nothing_stays_of_what_is_wrong(network, tmp_path, form, message):
    old = tmp_path / "out.pth"
    old.write_bytes(b"old")
    with pytest.raises(Exception, match=message):
        ship(network, old, form, force=True)
    assert old.read_bytes() == b"old"
    with pytest.raises(Exception, match=message):
        ship(network, tmp_path / "new" / "out.pth", form)
    assert names(tmp_path) == ["out.pth"]


def test_nothing_is_overwritten_unasked(network, tmp_path):
    path = tmp_path / "out.pth"
    path.write_bytes(b"old")
    with pytest.raises(DscsrError, match=r"Expected to write something new, but .*out\.pth exists. Pass --force"):
        ship(network, path, FORMATS["pth"])
    assert path.read_bytes() == b"old"
    ship(network, path, FORMATS["pth"], force=True)
    load_model(path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(DscsrError, match=r"Expected a file name, but .* is a folder"):
        ship(network, tmp_path / "folder.pth", FORMATS["pth"], force=True)


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


def test_a_file_that_came_in_the_meantime_stays(network, tmp_path):
    path = tmp_path / "out.pth"

    def write(network, temporary, half):
        FORMATS["pth"].write(network, temporary, half)
        path.write_bytes(b"another's")

    with pytest.raises(DscsrError, match=r"out\.pth exists"):
        ship(network, path, broken(write))
    assert path.read_bytes() == b"another's"
    assert names(tmp_path) == ["out.pth"]


def test_a_folder_that_cannot_be_written_gets_a_message(network, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match=r"Expected to write .*out\.pth, but got .* Choose another folder"):
        ship(network, tmp_path / "file" / "out.pth", FORMATS["pth"])


def test_a_network_of_somebody_else_is_refused(tmp_path):
    with pytest.raises(DscsrError, match="Expected weights of a known network"):
        ship(torch.nn.Conv2d(3, 3, 1), tmp_path / "out.pth", FORMATS["pth"])


SLOW_CHECK = """
import sys, time
from pathlib import Path
from dscsr_arch import SPAN
from dscsr_model.export.formats import FORMATS
from dscsr_model.export.ship import ship
def check(path, name):
    print("checking", flush=True)
    time.sleep(60)
ship(SPAN(feature_channels=4, upscale=2).eval(), Path("out.pth"), FORMATS["pth"]._replace(checks=check))
"""


def test_a_kill_leaves_nothing_under_the_name(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLOW_CHECK], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "checking\n"
    process.kill()
    process.wait(30)
    assert [name.startswith(".out.") for name in names(tmp_path)] == [True]
