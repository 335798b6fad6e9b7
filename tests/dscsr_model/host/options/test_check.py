"""All faults at once, with their lines; and what a check costs."""

from collections import Counter
from functools import wraps
from pathlib import Path

import option_files
import pytest
from option_files import changed
from torch import nn

from dscsr_arch import SPAN, torch_files
from dscsr_model.host.options.check import OptionsError, check_options


def test_all_faults_are_reported_at_once_with_their_lines(data, tmp_path):
    changes = {
        "maual_seed": 0, "network_g:type": "EDRS", "datasets:train:gt_size": 31,
        "datasets:train:dataroot_gt": "nowhere", "train:pixel_opt:type": "L1Los", "train:optim_g:lr": "1e-4",
        "num_gpu": 64,
    }  # fmt: skip
    file = option_files.write_options(tmp_path / "bad.yml", changed(option_files.training_options(data), changes))
    with pytest.raises(OptionsError) as error:
        check_options(file, is_train=True)
    faults, lines = error.value.faults, file.read_text().splitlines()
    assert {fault.key for fault in faults} == {key.replace(":", ": ") for key in changes}
    for fault in faults:
        assert str(fault) in str(error.value)
        assert str(fault).startswith(f"{file}:{fault.line}  {fault.key}")
        assert lines[fault.line - 1].split(":")[0].strip() == fault.key.split(": ")[-1]
    assert str(error.value).startswith("7 faults in ")


def test_many_faults_are_counted_not_all_printed(data, tmp_path):
    options = {**option_files.training_options(data), **{f"zz{i}": i for i in range(40)}}
    faults = option_files.faults_of(option_files.write_options(tmp_path / "bad.yml", options))
    assert len(faults) == 40
    assert "… and 10 more." in str(OptionsError(faults))


def test_what_a_check_costs(check, data, monkeypatch):
    """Files are read once, weights of an option twice, as their keys come first; a network is sized, then compared."""
    read, text, forward, counts = torch_files.read_torch_file, Path.read_bytes, nn.Module.__call__, Counter()

    def counted(function, name):
        @wraps(function)
        def call(*args, **kwargs):
            counts[name(args[0])] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("dscsr_arch.weight_files.read_torch_file", counted(read, lambda path: Path(path).name))
    monkeypatch.setattr(Path, "read_bytes", counted(text, lambda path: path.name))
    monkeypatch.setattr(nn.Module, "__call__", counted(forward, lambda module: type(module).__name__))
    monkeypatch.setattr(SPAN, "__init__", counted(SPAN.__init__, lambda _: "built"))
    assert check({"path:pretrain_network_g": "@base.pth"}, "DistillationModel") == {}
    assert counts["options.yml"] == 1
    assert counts["teacher.pth"] == 1
    assert counts["base.pth"] <= 2
    assert counts["SPAN"] <= 3
    assert counts["built"] <= 4
