"""What BasicSR's own MessageLogger says and plots in a run of our model."""

import logging

from small_models import build, options

from dscsr_model.host import train_log
from dscsr_model.host.patches import Patches


def test_the_last_lines_estimate_and_the_learning_rates(tmp_path, caplog, monkeypatch):
    """Seven iterations of a minute each."""
    from basicsr.utils import MessageLogger

    monkeypatch.setattr(train_log, "end_well", lambda *_: None)  # it listens to signals
    points = []

    class Writer:
        def add_scalar(self, *point):
            points.append(point)

        def close(self):
            pass

    model = build(options(tmp_path))
    loop = {
        "MessageLogger": MessageLogger,
        "build_model": lambda opt: model,
        "create_train_val_dataloader": lambda opt, logger: (None, None, [], 1, 7),
    }
    train_log.install(Patches(), loop)
    opt = {"name": "run", "logger": {"print_freq": 1, "use_tb_logger": True}, "train": {"total_iter": 7}}
    loop["build_model"](opt)
    loop["create_train_val_dataloader"](opt, None)
    said = loop["MessageLogger"](opt, 0, Writer())
    said.start_time -= 8 * 60
    said.logger = logging.getLogger("said")
    with caplog.at_level(logging.INFO, "said"):
        said({"epoch": 0, "iter": 7, "lrs": [0.1, 0.2], "time": 60.0, "data_time": 0.0, "l_pix": 0.5})
    assert "[eta: 0:00:00, " in caplog.text
    assert points == [("lr", 0.1, 7), ("lr_1", 0.2, 7), ("losses/l_pix", 0.5, 7)]
