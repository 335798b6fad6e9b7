"""Curves read back from logs and event files, the image, the table, and what a user can do wrong."""

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import option_files
import pytest
import torch
from PIL import Image

from dscsr_arch.errors import DscsrError
from dscsr_model import cli
from dscsr_model.cli import report
from dscsr_model.cli.report_logs import best_of, read_events, read_logs

STAMP = "2026-11-21 10:42:04,896 INFO: "


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
        times = "[eta: 1 day, 0:07:23, time (data): 0.250 (0.003)] "
        lines.append(f"{STAMP}[span2..][epoch:  0, iter:{i:8,d}, lr:(1.310e-03,5.000e-04,)] {times}{losses}{extra}")
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


# --- logs -------------------------------------------------------------------------------------------------------


def test_a_log_of_srmodel():
    history = read_logs([write("a", log_text(range(10, 101, 10)))])
    assert list(history.losses) == ["pixel"]
    assert history.losses["pixel"] == pytest.approx({i: 0.1 / i for i in range(10, 101, 10)}, rel=1e-4)
    assert history.metrics["Set5", "psnr"] == pytest.approx({i: 30 + i / 100 for i in (20, 40, 60, 80, 100)})
    assert set(history.metrics) == {("Set5", "psnr"), ("Set5", "ssim")}
    assert set(history.psnr) == {("Set5", "psnr")}
    assert history.rates == dict.fromkeys(range(10, 101, 10), 2 * 16 / 0.25)
    assert history.last_iteration == 100


def test_a_log_of_efficient_sr_model():
    extra = "images_per_s: 1.2345e+02 peak_memory_gib: 1.0e+00 skipped_steps: 1.0e+00 "
    text = log_text(range(1000, 5001, 1000), terms=("l_pixel", "l_affinity"), extra=extra, sets=("Set5", "Set14"))
    history = read_logs([write("a", text)])
    assert list(history.losses) == ["pixel", "affinity"]
    assert list(history.losses["affinity"]) == [1000, 2000, 3000, 4000, 5000]
    assert set(history.rates.values()) == {123.45}
    assert set(history.psnr) == {("Set5", "psnr"), ("Set14", "psnr")}


@pytest.mark.parametrize(
    ("print_freq", "val_freq", "expected"),
    [(10, 15, [15, 30, 45]), (30, 10, [10, 20, 30, 40, 50, 60]), (7, 20, [20, 40, 60])],
)
def test_a_validation_belongs_to_the_next_multiple_of_val_freq(print_freq, val_freq, expected):
    lines = [f"  val_freq: {val_freq}\n  total_iter: 1000"]
    for i in range(1, expected[-1] + 1):
        if i % print_freq == 0:
            lines.append(f"{STAMP}[span2..][epoch:  0, iter:{i:8,d}, lr:(1.310e-03,)] l_pix: 1.0e-01 ")
        if i % val_freq == 0:
            lines.append(validation(i))
    history = read_logs([write("a", "\n".join(lines) + "\n")])
    assert history.metrics["Set5", "psnr"] == pytest.approx({i: 30 + i / 100 for i in expected})


def test_a_resume_undoes_what_came_after_its_checkpoint():
    files = [
        write("a", log_text(range(10, 81, 10), value=0.1), "20261121_103707"),
        write("a", log_text([], resumed=60), "20261121_110000"),  # killed before its first line
        write("a", log_text(range(50, 71, 10), resumed=40, value=0.7), "20261122_090000"),
    ]
    history = read_logs(reversed(files))
    expected = {i: (0.1 if i <= 40 else 0.7) / i for i in range(10, 71, 10)}
    assert history.losses["pixel"] == pytest.approx(expected, rel=1e-4)
    assert list(history.metrics["Set5", "psnr"]) == [20, 40, 60]
    assert history.last_iteration == 70


def test_a_validation_of_what_training_starts_from_is_its():
    """A base, and after a kill between a checkpoint and its validation."""
    starts = f"{STAMP}Validating iteration {{}}, which training starts from.\n"
    resumed = f"{STAMP}Resuming training from epoch: 0, iter: 40.\n" + starts.format(40) + validation(40)
    files = [
        write("a", starts.format(0) + validation(0) + log_text(range(10, 31, 10)), "20261121_103707"),
        write("a", resumed + log_text(range(50, 71, 10)), "20261121_110000"),
    ]
    assert list(read_logs(files).metrics["Set5", "psnr"]) == [0, 20, 40, 60]


def test_the_later_file_wins():
    files = [
        write("a", log_text(range(10, 51, 10)), "20261121_103707"),
        write("a", log_text(range(40, 61, 10), value=0.7), "20261122_090000"),
    ]
    expected = {i: (0.1 if i < 40 else 0.7) / i for i in range(10, 61, 10)}
    assert read_logs(files).losses["pixel"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cut", ["2.9140", "2.9140e-0"])
def test_a_line_cut_by_a_kill_is_left_out(cut):
    line = f"{STAMP}[span2..][epoch:  0, iter:     110, lr:(1.310e-03,)] l_pix: {cut}"
    history = read_logs([write("a", log_text([100], total=1000) + line)])
    assert list(history.losses["pixel"]) == [100]


def test_a_figure_that_is_none_is_left_out():
    line = f"{STAMP}[span2..][epoch:  0, iter:     110, lr:(1.310e-03,)] l_pix: high \n"
    assert list(read_logs([write("a", log_text([100], total=1000) + line)]).losses["pixel"]) == [100]


def test_not_a_number_is_read_and_not_the_best():
    history = read_logs([write("a", log_text([10, 20], value=math.nan))])
    assert all(math.isnan(value) for value in history.losses["pixel"].values())
    assert best_of({10: math.nan, 20: 29.0, 30: 29.0}) == (20, 29.0)


def test_a_log_without_iterations():
    file = write("a", log_text([]))
    with pytest.raises(DscsrError, match=rf"Expected iterations in {file}, but got none.*print_freq"):
        read_logs([file])


# --- event files ------------------------------------------------------------------------------------------------


@pytest.fixture
def events():
    from torch.utils.tensorboard import SummaryWriter

    def write_events(name, points, tag="losses/l_pix"):
        with SummaryWriter(f"tb_logger/{name}") as writer:
            for step, value in points:
                writer.add_scalar(tag, value, step)
        return Path("tb_logger", name)

    return write_events


def test_event_files(events):
    events("a", [(10, 0.5), (20, 0.4), (30, 0.3)])
    events("a", [(30, 31.0)], "metrics/Set5/psnr")
    folder = events("a", [(10, 99.0)], "images_per_s")
    history = read_events(folder)
    assert history.losses["pixel"] == pytest.approx({10: 0.5, 20: 0.4, 30: 0.3})
    assert history.metrics == {("Set5", "psnr"): {30: 31.0}}
    assert history.rates == {10: 99.0}


def test_event_files_of_a_resumed_training(events):
    history = read_events(events("a", [(10, 0.5), (20, 0.4), (30, 0.3), (20, 0.25)]))
    assert history.losses["pixel"] == {10: 0.5, 20: 0.25}


def test_event_files_without_losses(events):
    with pytest.raises(DscsrError, match="Expected losses or metrics in the event files of tb_logger/a, but got none"):
        read_events(events("a", [(10, 0.5)], "something/else"))


def test_event_files_are_used_where_there_is_no_log(events, capsys):
    Path("experiments/a").mkdir(parents=True)
    events("a", [(10, 0.5), (20, 0.25)])
    assert cli.main(["report", "a"]) == 0
    assert "a                   20  0.25" in capsys.readouterr().out


def test_tensorboard_is_missing(events, monkeypatch):
    folder = events("a", [(10, 0.5)])
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(DscsrError, match=r"Expected tensorboard .* not installed. Run `pip install tensorboard`"):
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


def drawn(histories, **arguments):
    """Axes of the image of some histories."""
    from dscsr_model.cli.report_plot import draw

    return draw(histories, **arguments).axes


def test_losses_over_two_decades_get_a_logarithmic_scale_and_flat_ones_a_linear_one():
    steep = read_logs([write("a", log_text(range(10, 1001, 10), total=1000))])
    flat = read_logs([write("b", log_text(range(500, 1001, 10), total=1000))])
    assert drawn({"a": steep})[0].get_yscale() == "log"
    assert drawn({"a": flat})[0].get_yscale() == "linear"


def test_labels_and_units():
    loss, psnr = drawn({"a": read_logs([write("a", log_text(range(10, 101, 10)))])})
    assert (loss.get_title(), loss.get_xlabel(), loss.get_ylabel()) == ("Training loss (pixel)", "Iteration", "Loss")
    assert (psnr.get_title(), psnr.get_ylabel()) == ("PSNR on Set5 (star: best)", "PSNR (dB)")


def test_without_validation_there_is_one_panel():
    assert len(drawn({"a": read_logs([write("a", log_text(range(1, 10)))])})) == 1


def test_the_raw_curve_is_faint_behind_the_smooth_one():
    history = read_logs([write("a", log_text(range(1, 10)))])
    faint, strong = drawn({"a": history}, window=3)[0].lines
    raw = list(history.losses["pixel"].values())
    assert list(faint.get_ydata()) == raw
    assert faint.get_alpha() < 0.5
    assert strong.get_ydata()[1] == pytest.approx(np.mean(raw[:3]))
    (only,) = drawn({"a": history}, window=1)[0].lines
    assert only.get_ydata() == pytest.approx(raw)


def test_a_loss_that_is_not_finite_leaves_a_gap():
    history = read_logs([write("a", log_text(range(1, 10)))])
    history.losses["pixel"][5] = math.nan
    assert 5 not in drawn({"a": history})[0].lines[-1].get_xdata()
    history.losses["pixel"] = dict.fromkeys(range(1, 10), math.nan)
    assert drawn({"a": history})[0].lines[-1].get_xdata().size == 0


def test_smooth():
    from dscsr_model.cli.report_plot import smooth

    values = np.array([8.0, 4.0, 2.0, 1.0, 1.0, 3.0])
    assert smooth(values, 1) == pytest.approx(values)
    assert smooth(values, 3) == pytest.approx([8, 14 / 3, 7 / 3, 4 / 3, 5 / 3, 2])
    assert smooth(values, 5) == pytest.approx([8, 14 / 3, 16 / 5, 11 / 5, 7 / 4, 5 / 3])
    assert smooth(values, 99)[0] == 8
    assert smooth(np.empty(0), 5).size == 0


def test_many_experiments_have_different_colours():
    from dscsr_model.cli.report_plot import experiment_colours

    for number in (1, 7, 8, 20):
        assert len({str(colour) for colour in experiment_colours(number)}) == number


def test_odd_names_stand_in_the_legend():
    write("_a$b$c", log_text(range(1, 10)))
    histories = {"_a$b$c": read_logs(Path("experiments/_a$b$c").iterdir())}
    from dscsr_model.cli.report_plot import draw

    (text,) = draw(histories).legends[0].get_texts()
    assert text.get_text() == r" _a\$b\$c"
    assert cli.main(["report", "_a$b$c"]) == 0


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_other_formats(suffix):
    write("a", log_text(range(10, 101, 10)))
    assert cli.main(["report", "a", "-o", f"figure{suffix}"]) == 0
    assert Path(f"figure{suffix}").read_bytes()[:5] in (b"%PDF-", b"<?xml")


def test_same_names_in_different_places_are_told_apart():
    folders = [Path("x/span"), Path("y/span"), Path("x/other")]
    assert report.labels_of(folders) == ["x/span", "y/span", "other"]


# --- what a user can do wrong -----------------------------------------------------------------------------------


def refused(*arguments):
    """The message of ``dscsr report`` with these arguments."""
    parser = cli._parser()
    args = parser.parse_args(["report", *arguments])
    with pytest.raises(report.DscsrError) as caught:
        args.run(args)
    return str(caught.value)


def test_no_such_experiment():
    assert "but got `span`. There is no experiment in experiments/ here" in refused("span")
    for name in ("train_span_x4", "train_span_x2"):
        write(name, log_text([10]))
    message = "Expected a folder or a name under experiments/, but got `{}`. {}"
    assert refused("train_spam_x4") == message.format(
        "train_spam_x4", "Did you mean `train_span_x4` or `train_span_x2`?"
    )
    assert refused("zzz") == message.format("zzz", "There are: train_span_x2, train_span_x4.")


def test_no_log():
    Path("experiments/a").mkdir(parents=True)
    expected = "Expected train_*.log in experiments/a or TensorBoard's files in tb_logger/a, but found neither."
    assert expected in refused("a")


def test_the_same_experiment_twice():
    write("a", log_text([10]))
    assert (
        refused("a", "experiments/a") == "Expected different experiments, but got `experiments/a` twice. Name it once."
    )


def test_a_image_that_is_there_is_kept():
    write("a", log_text(range(10, 101, 10)))
    Path("report.png").write_text("mine")
    assert refused("a") == "Expected a new file, but `report.png` exists. Add --force to replace it, or choose with -o."
    assert Path("report.png").read_text() == "mine"
    assert cli.main(["report", "a", "--force"]) == 0
    assert Image.open("report.png").format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "-o", "x.jpg"), "Expected the name of the image to end in .png, .pdf, .svg, but got `x.jpg`."),
        (("a", "-o", "no/x.png"), "Expected a folder to write x.png into, but `no` is none. Make it first."),
        (("a", "--smooth", "0"), "Expected --smooth to be at least 1, but got 0."),
    ],
)
def test_arguments(arguments, message):
    assert refused(*arguments) == message


def test_matplotlib_is_missing(monkeypatch):
    write("a", log_text([10]))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "dscsr_model.cli.report_plot", raising=False)
    monkeypatch.delattr("dscsr_model.cli.report_plot", raising=False)
    assert refused("a") == (
        'Expected matplotlib to draw with, but matplotlib is not installed. Run `pip install "dscsr[report]"`.'
    )


# --- real trainings ---------------------------------------------------------------------------------------------


def test_neither_torch_nor_basicsr_is_imported(run_python, tmp_path):
    write("a", log_text(range(10, 101, 10)))
    code = (
        "import sys; from dscsr_model import cli; code = cli.main(['report', 'a']);"
        "print(sorted({'torch', 'basicsr'} & set(sys.modules))); sys.exit(code)"
    )
    done = run_python("-W", "error", "-c", code, check=True)
    assert done.stdout.endswith("report.png\n[]\n")
    assert done.stderr == ""


@pytest.mark.parametrize("model", ["SRModel", "EfficientSRModel"])
def test_a_real_training(run_python, tmp_path, model):
    """From the log and from TensorBoard: the same figures, as exactly as the log prints them."""
    options = option_files.training_options(option_files.make_data(tmp_path / "data"))
    changes = {"model_type": model, "val:val_freq": 4, "logger:print_freq": 2, "logger:use_tb_logger": True}
    options = option_files.changed(options, changes)
    option_files.write_options(tmp_path / "opt.yml", options)
    env = {"OMP_NUM_THREADS": "1", "DSCSR_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": ""}
    run_python("-m", "dscsr_model.cli", "train", "-opt", "opt.yml", env=env, check=True)

    from_log = report.read_history(Path("experiments/tiny"))
    assert list(from_log.losses["pixel"]) == [2, 4, 6, 8, 10]
    assert list(from_log.metrics["Set", "psnr"]) == [4, 8, 10]
    assert all(rate > 0 for rate in from_log.rates.values())
    assert cli.main(["report", "tiny"]) == 0

    shutil.rmtree("experiments/tiny")
    Path("experiments/tiny").mkdir()
    from_events = report.read_history(Path("experiments/tiny"))
    assert from_events.losses["pixel"] == pytest.approx(from_log.losses["pixel"], rel=1e-4)
    for at in (4, 8):
        assert from_events.metrics["Set", "psnr"][at] == pytest.approx(from_log.metrics["Set", "psnr"][at], abs=1e-4)
    assert torch.tensor(list(from_log.losses["pixel"].values())).isfinite().all()
