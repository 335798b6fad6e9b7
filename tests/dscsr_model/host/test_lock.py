"""One training at a time in an experiment."""

import errno
import fcntl
import os

import filelock
import pytest
from training_runs import experiment, pipeline, write_options

from dscsr_model.host.lock import lock_experiment


def test_a_second_training_of_the_same_name_is_refused_and_the_first_ones_folder_stays(tmp_path, capsys):
    write_options(tmp_path, **{"train:total_iter": 1, "logger:save_checkpoint_freq": 1, "val:val_freq": 100})
    (experiment(tmp_path) / "models").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "experiments/.tiny.lock"):  # as the first one, of whatever process, holds it
        for arguments in ([], ["--auto_resume"]):
            with pytest.raises(RuntimeError, match="exit code 1"):
                pipeline(tmp_path, *arguments)
            said = capsys.readouterr().err.strip().splitlines()
            assert said[-1].startswith(f"dscsr: error: Expected to be alone in {experiment(tmp_path)}, but another ")
        assert [folder.name for folder in (tmp_path / "experiments").iterdir() if folder.is_dir()] == ["tiny"]
    pipeline(tmp_path)  # which BasicSR begins by archiving what is there
    assert len(list((tmp_path / "experiments").glob("tiny_archived_*"))) == 1
    pipeline(tmp_path, "--auto_resume")  # the run before has given it back


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_a_run_goes_on_and_says_so(tmp_path, monkeypatch, capsys, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    root = tmp_path / "experiments/tiny"
    for _ in range(2):  # nothing stays behind that would keep a run away which goes on after a kill
        lock_experiment({"path": {"experiments_root": str(root)}, "name": "tiny", "rank": 0, "dist": False})
        said = capsys.readouterr().err
        assert said.startswith("dscsr: a second training named tiny would not be noticed: the file system of ")
        assert os.strerror(code) in said
