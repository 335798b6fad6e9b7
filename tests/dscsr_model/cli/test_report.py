"""Curves read back from logs and event files, the image, the table, and what a user can do wrong."""

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import option_files
import pytest
from PIL import Image
from training_runs import dscsr

from dscsr_arch.errors import DscsrError
from dscsr_model import cli
from dscsr_model.cli.report import read_history
from dscsr_model.cli.report_logs import best_of, read_events, read_logs

STAMP = "2026-11-21 10:42:04,896 INFO: "
STARTS = f"{STAMP}Validating iteration {{}}, which training starts from.\n"


def line(i, items, times=""):
    return f"{STAMP}[span2..][epoch:  0, iter:{i:8,d}, lr:(1.310e-03,5.000e-04,)] {times}{items}"


def log_text(
    iterations, *, terms=("l_pix",), extra="", val_freq=20, total=100, resumed=None, value=0.1, sets=("Set5",)
):
    """A log as BasicSR's MessageLogger and SRModel write it; at iteration i loss value/i, PSNR 30 + i/100."""
    lines = [
        f"{STAMP}\n  name: span\n  datasets:[\n    train:[\n      batch_size_per_gpu: 16\n    ]\n  ]",
        f"  train:[\n    total_iter: {total}\n  ]\n  val:[\n    val_freq: {val_freq}\n  ]\n",
        f"{STAMP}Training statistics:\n\tNumber of train images: 120\n\tBatch size per gpu: 16",
        f"\tWorld size (gpu number): 2\n\tTotal epochs: 4; iters: {total}.",
    ]
    if resumed is not None:
        lines.append(f"{STAMP}Resuming training from epoch: 0, iter: {resumed}.")
    for i in iterations:
        losses = "".join(f"{term}: {value / i:.4e} " for term in terms)
        lines.append(line(i, f"{losses}{extra}", "[eta: 1 day, 0:07:23, time (data): 0.250 (0.003)] "))
        if i % val_freq == 0:
            lines += [validation(i, name) for name in sets]
    if iterations and max(iterations) == total:
        lines += [f"{STAMP}End of training. Time consumed: 0:06:18", f"{STAMP}Save the latest model."]
        lines += [validation(total, name) for name in sets]
    return "\n".join(lines) + "\n"


def validation(i, name="Set5"):
    psnr = 30 + i / 100
    return (
        f"{STAMP}Validation {name}\n\t # psnr: {psnr:.4f}\tBest: {psnr:.4f} @ {i} iter\n\t # ssim: 0.8000\tBest: 0.8\n"
    )


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, text, when="20261121_103707"):
    folder = Path("experiments", name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"train_{name}_{when}.log"
    file.write_text(text)
    return file


def history_of(*texts):
    """Of the logs of a training and its resumes, read in the wrong order."""
    files = [write("a", text, f"20261121_1{number}3707") for number, text in enumerate(texts)]
    return read_logs(reversed(files))


# --- logs -------------------------------------------------------------------------------------------------------


def test_logs_of_srmodel_and_of_efficient_sr_model():
    history = history_of(log_text(range(10, 101, 10)))
    assert history.losses == {"pixel": pytest.approx({i: 0.1 / i for i in range(10, 101, 10)}, rel=1e-4)}
    assert set(history.metrics) == {("Set5", "psnr"), ("Set5", "ssim")}
    assert history.psnr == {("Set5", "psnr"): pytest.approx({i: 30 + i / 100 for i in (20, 40, 60, 80, 100)})}
    assert history.rates == dict.fromkeys(range(10, 101, 10), 2 * 16 / 0.25)
    extra = "images_per_s: 1.2345e+02 peak_memory_gib: 1.0e+00 skipped_steps: 1.0e+00 "
    text = log_text(range(1000, 5001, 1000), terms=("l_pixel", "l_affinity"), extra=extra, sets=("Set5", "Set14"))
    history = history_of(text)
    assert list(history.losses) == ["pixel", "affinity"]
    assert list(history.losses["affinity"]) == [1000, 2000, 3000, 4000, 5000]
    assert (set(history.rates.values()), history.last_iteration) == ({123.45}, 5000)
    assert set(history.psnr) == {("Set5", "psnr"), ("Set14", "psnr")}


@pytest.mark.parametrize(
    ("print_freq", "val_freq", "expected"),
    [(10, 15, [15, 30, 45]), (30, 10, [10, 20, 30, 40, 50, 60]), (7, 20, [20, 40, 60])],
)
def test_a_validation_belongs_to_the_next_multiple_of_val_freq(print_freq, val_freq, expected):
    lines = [f"  val_freq: {val_freq}\n  total_iter: 1000"]
    for i in range(1, expected[-1] + 1):
        lines += [line(i, "l_pix: 1.0e-01 ")] * (i % print_freq == 0) + [validation(i)] * (i % val_freq == 0)
    history = history_of("\n".join(lines) + "\n")
    assert history.metrics["Set5", "psnr"] == pytest.approx({i: 30 + i / 100 for i in expected})


def test_a_resume_undoes_what_came_after_its_checkpoint():
    history = history_of(
        log_text(range(10, 81, 10), value=0.1),
        log_text([], resumed=60),  # killed before its first line
        log_text(range(50, 71, 10), resumed=40, value=0.7),
    )
    expected = {i: (0.1 if i <= 40 else 0.7) / i for i in range(10, 71, 10)}
    assert history.losses["pixel"] == pytest.approx(expected, rel=1e-4)
    assert list(history.metrics["Set5", "psnr"]) == [20, 40, 60]
    lines = f"{line(60, 'l_pix: 0.5 ')}\n{validation(60)}"  # validated before the first log line after the resume
    sparse = f"  val_freq: 20\n{STAMP}Resuming training from epoch: 0, iter: 20.\n{validation(40)}{lines}"
    history = history_of(log_text(range(10, 81, 10)), sparse)
    assert list(history.metrics["Set5", "psnr"]) == [20, 40, 60]
    assert list(history.losses["pixel"]) == [10, 20, 60]
    again = history_of(log_text(range(10, 51, 10)), log_text(range(40, 61, 10), value=0.7))  # no line of a resume
    expected = {i: (0.1 if i < 40 else 0.7) / i for i in range(10, 61, 10)}
    assert again.losses["pixel"] == pytest.approx(expected, rel=1e-4)


def test_a_validation_of_what_training_starts_from_is_its():
    """A base, and after a kill between a checkpoint and its validation."""
    resumed = f"{STAMP}Resuming training from epoch: 0, iter: 40.\n" + STARTS.format(40) + validation(40)
    history = history_of(
        STARTS.format(0) + validation(0) + log_text(range(10, 31, 10)), resumed + log_text(range(50, 71, 10))
    )
    assert list(history.metrics["Set5", "psnr"]) == [0, 20, 40, 60]


@pytest.mark.parametrize("end", ["l_pix: 2.9140", "l_pix: 2.9140e-0", "l_pix: high \n"])
def test_a_line_cut_by_a_kill_and_a_figure_that_is_none_are_left_out(end):
    assert list(history_of(log_text([100], total=1000) + line(110, end)).losses["pixel"]) == [100]


def test_not_a_number_is_read_and_not_the_best_and_no_iteration_is_told():
    assert all(math.isnan(value) for value in history_of(log_text([10], value=math.nan)).losses["pixel"].values())
    assert best_of({10: math.nan, 20: 29.0, 30: 29.0}) == (20, 29.0)
    with pytest.raises(DscsrError, match=r"Expected iterations in .*\.log, but got none.*print_freq"):
        history_of(log_text([]))


# --- event files ------------------------------------------------------------------------------------------------


def events(name, points, tag="losses/l_pix"):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(f"tb_logger/{name}") as writer:
        for step, value in points:
            writer.add_scalar(tag, value, step)
    return Path("tb_logger", name)


def test_event_files_of_a_resumed_training_are_used_where_there_is_no_log(capsys):
    events("a", [(10, 0.5), (20, 0.4), (30, 0.3), (20, 0.25)])
    events("a", [(20, 31.0)], "metrics/Set5/psnr")
    history = read_events(events("a", [(10, 99.0)], "images_per_s"))
    assert history.losses == {"pixel": {10: 0.5, 20: 0.25}}
    assert history.metrics == {("Set5", "psnr"): {20: 31.0}}
    assert history.rates == {10: 99.0}
    Path("experiments/a").mkdir(parents=True)
    assert cli.main(["report", "a"]) == 0
    assert "a                   20  0.25" in capsys.readouterr().out


def test_event_files_without_losses_and_no_tensorboard(monkeypatch):
    folder = events("a", [(10, 0.5)], "something/else")
    with pytest.raises(DscsrError, match="Expected losses or metrics in the event files of tb_logger/a, but got none"):
        read_events(folder)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(DscsrError, match=r"Expected tensorboard .* none that is installed. Run `pip install tensorb"):
        read_events(folder)


# --- the image and the table ----------------------------------------------------------------------------------


def test_two_experiments_in_one_image(capsys):
    write("span26", log_text(range(10, 101, 10), sets=("Set5", "Set14")))
    write(
        "span28", log_text(range(10, 61, 10), terms=("l_pixel", "l_affinity"), extra="images_per_s: 5.0e+01 ", total=60)
    )
    assert cli.main(["report", "span26", "experiments/span28", "-o", "out.png"]) == 0
    assert capsys.readouterr().out == (
        "experiment  iterations  last loss          best PSNR              images/s\n"
        "span26             100  0.001              Set5 31.00 dB at 100      128.0\n"
        "                                           Set14 31.00 dB at 100\n"
        "span28              60  pixel 0.001667     30.60 dB at 60             50.0\n"
        "                        affinity 0.001667\n"
        "\n"
        "out.png\n"
    )
    image = np.asarray(Image.open("out.png").convert("RGB"))
    assert image.shape == (675, 1800, 3)
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # both experiments, in both halves
        for half in np.array_split(image, 2, axis=1):
            assert (half == colour).all(-1).sum() > 100
    assert not list(Path().glob(".out*"))


def test_same_names_in_different_places_are_told_apart(capsys):
    for name in ("x/span", "y/span", "x/other"):
        folder = Path("experiments", name)
        folder.mkdir(parents=True)
        (folder / "train_a.log").write_text(log_text([10]))
    names = ["experiments/x/span", "experiments/y/span", "experiments/x/other"]
    assert cli.main(["report", *names]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:4]] == [*names[:2], "other"]


# --- what a user can do wrong -----------------------------------------------------------------------------------


def refused(capsys, *arguments):
    """The message of ``dscsr report`` with these arguments."""
    assert cli.main(["report", *arguments]) == 1
    return capsys.readouterr().err.removeprefix("dscsr: error: ").rstrip("\n")


NOT_A_NAME = "Expected a folder or a name under experiments/, but got "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train_spam_x4", f"{NOT_A_NAME}`train_spam_x4`. Did you mean `train_span_x4` or `train_span_x2`?"),
        ("zzz", f"{NOT_A_NAME}`zzz`. There are: empty, train_span_x2, train_span_x4."),
        ("empty", "in experiments/empty or TensorBoard's files in tb_logger/empty, but got neither"),
        ("train_span_x2 experiments/train_span_x2", "different experiments, but got `experiments/train_span_x2` tw"),
        ("train_span_x2 -o x.jpg", "Expected the name of the image to end in .png, .pdf, .svg, but got `x.jpg`."),
        ("train_span_x2 -o no/x.png", "Expected a folder to write x.png into, but got `no`, which is none. Make it"),
        ("train_span_x2 --smooth 0", "Expected --smooth to be at least 1, but got 0."),
        ("train_span_x2 -o mine.png", "a new file, but got `mine.png`, which exists. Add --force to replace it"),
    ],
)
def test_what_a_user_can_do_wrong(capsys, arguments, message):
    assert "but got `span`. There is no experiment in experiments/ here" in refused(capsys, "span")
    for name in ("train_span_x4", "train_span_x2"):
        write(name, log_text([10]))
    Path("experiments/empty").mkdir()
    Path("mine.png").write_text("mine")
    assert message in refused(capsys, *arguments.split())
    assert Path("mine.png").read_text() == "mine"


# --- real trainings ---------------------------------------------------------------------------------------------


def test_neither_torch_nor_basicsr_is_imported(run_python):
    write("a", log_text(range(10, 101, 10)))
    code = (
        "import sys; from dscsr_model import cli; code = cli.main(['report', 'a']);"
        "print(sorted({'torch', 'basicsr'} & set(sys.modules))); sys.exit(code)"
    )
    done = run_python("-W", "error", "-c", code, check=True)
    assert done.stdout.endswith("report.png\n[]\n")
    assert done.stderr == ""


@pytest.mark.parametrize("model", [pytest.param("SRModel", marks=pytest.mark.slow), "EfficientSRModel"])
def test_a_real_training(tmp_path, model):
    """From the log and from TensorBoard: the same figures, as exactly as the log prints them."""
    options = option_files.training_options(option_files.make_data(tmp_path / "data"))
    changes = {"model_type": model, "val:val_freq": 4, "logger:print_freq": 2, "logger:use_tb_logger": True}
    options = option_files.changed(options, changes)
    option_files.write_options(tmp_path / "opt.yml", options)
    assert dscsr("train", "-opt", "opt.yml") == 0

    from_log = read_history(Path("experiments/tiny"))
    assert list(from_log.losses["pixel"]) == [2, 4, 6, 8, 10]
    assert list(from_log.metrics["Set", "psnr"]) == [4, 8, 10]
    assert all(rate > 0 for rate in from_log.rates.values())
    shutil.rmtree("experiments/tiny")
    Path("experiments/tiny").mkdir()
    from_events = read_history(Path("experiments/tiny"))
    assert from_events.losses["pixel"] == pytest.approx(from_log.losses["pixel"], rel=1e-4)
    for at in (4, 8):
        assert from_events.metrics["Set", "psnr"][at] == pytest.approx(from_log.metrics["Set", "psnr"][at], abs=1e-4)
