"""When a training says how far it is, and what of it."""

import io
from types import SimpleNamespace

import pytest
import torch

from dscsr_model.training import progress
from dscsr_model.training.progress import ShownProgress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Loss:
    """Counts how often it is read from the device."""

    read = 0

    def detach(self):
        Loss.read += 1
        return torch.tensor(0.25)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as the test sets them."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(Loss, "read", 0)
    return now


@pytest.mark.parametrize(
    ("total", "pace", "first", "most"),
    [(500_000, 0.05, [1, 10, 50, 100, 300], 150), (20, 40, [1, 2, 3, 4, 5], 20), (7, 0.1, [1, 7], 2)],
)
def test_lines_come_soon_then_rarely_and_only_they_read_losses(clock, total, pace, first, most):
    said = io.StringIO()
    shown = ShownProgress(0, lambda _: total, said)
    for iteration in range(1, total + 1):
        clock.seconds += pace
        shown.step(iteration, {"l_pix": Loss()})
    lines = said.getvalue().splitlines()
    assert [int(line.split()[1].replace(",", "")) for line in lines][:5] == first
    assert lines[-1].startswith(f"iteration {total:,} of {total:,}: ")
    assert len(lines) == Loss.read <= most


def test_a_line_tells_rate_time_and_losses_since_a_resume(clock):
    said, estimates = io.StringIO(), []
    shown = ShownProgress(100, lambda _: 4100, said, estimates.append)
    for iteration in range(101, 111):
        clock.seconds += 30 if iteration == 101 else 0.5
        losses = {"l_pix": torch.tensor(0.5), "l_style": torch.tensor([0.5, 1.0])}
        shown.step(iteration, losses, lambda skipped=iteration - 101: skipped)
    losses = "loss 1.25 (pix 0.5, style 0.75)"
    assert said.getvalue().splitlines() == [
        f"iteration 101 of 4,100: {losses}",
        f"iteration 110 of 4,100: 2 it/s, 33 min 15 s left, {losses}, skipped steps: 9",
    ]
    assert estimates == [1995]


def test_a_stage_is_measured_by_itself(clock):
    """Steps of a second, then of ten: what is left counts as many as the last ones were long."""
    said = io.StringIO()
    shown = ShownProgress(
        0, lambda _: 100, said, left=lambda iteration, since: (100 - iteration) * (1 if since else 10)
    )
    for iteration in range(1, 61):
        if iteration == 51:
            shown.begin_stage(50, "Stage 2")
        clock.seconds += 1 if iteration <= 50 else 10
        shown.step(iteration, {"l_pix": torch.tensor(1.0)})
    lines = said.getvalue().splitlines()
    assert [line for line in lines if "50 of" in line] == ["iteration 50 of 100: 1 s/it, 8 min 20 s left, loss 1"]
    assert lines[lines.index("Stage 2") + 1] == "iteration 51 of 100: loss 1"
    assert lines[-1] == "iteration 60 of 100: 10 s/it, 6 min 40 s left, loss 1"


def test_a_terminal_has_a_bar_whose_losses_are_read_once_a_second(clock):
    said = Terminal()
    shown = ShownProgress(0, lambda _: 100, said)
    for iteration in range(1, 101):
        clock.seconds += 0.1
        shown.step(iteration, {"l_pix": Loss()})
        if iteration == 50:
            shown.say("validation 50: Set psnr 30.0000")
    shown.close()
    assert Loss.read in range(10, 14)
    assert "\nvalidation 50: Set psnr 30.0000\n" in said.getvalue().replace("\r", "\n")
    assert "100/100, 10 it/s, loss 0.25" in said.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600 * 7, "7 h"),
        (86400 * 2 + 60, "2 days"),
        (86400 * 395, "1 year 30 days"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
