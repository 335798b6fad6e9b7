"""What BasicSR's logger says: it does not propagate, so that caplog alone never sees it."""

import logging

import pytest


@pytest.fixture
def logged(caplog):
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)
