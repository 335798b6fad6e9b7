"""What several rooms' tests share: BasicSR's log, and the check of a kit without a process of its own."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def logged(caplog):
    """What its logger says: it does not propagate, so that caplog alone never sees it."""
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)


@pytest.fixture
def checked_here(monkeypatch):
    """A kit's check in this process, without taking the time: a bare one takes seconds to start."""
    from dscsr_model.export.ntire import bare_check, self_check

    def run(_, **settings):
        job = {**json.loads(settings["input"]), "seconds": 0}
        answer = {"hidden": bare_check.FORBIDDEN, "python": "3.9", "torch": "1.13"}
        try:
            with torch.no_grad():
                answer |= bare_check.check(job)
        except bare_check.StepError as error:
            answer["failed"] = error.args
        return SimpleNamespace(returncode=0, stdout=json.dumps(answer))

    monkeypatch.setattr(self_check, "subprocess", SimpleNamespace(run=run))
