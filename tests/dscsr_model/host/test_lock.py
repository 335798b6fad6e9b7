"""One training at a time in an experiment."""

import filelock
import pytest
from training_runs import experiment, pipeline, write_options


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
