"""The image: what it shows, and that one can read it."""

from itertools import combinations

import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from dscsr_arch.errors import DscsrError
from dscsr_model.profiling.complexity import Complexity
from dscsr_model.profiling.latency import Latency
from dscsr_model.profiling.plot import draw, save
from dscsr_model.profiling.profile import Measured, Plan, Profile, Run

MACHINE = {"device": "CPU", "cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "python": "3.11.7"}
NETWORKS = {"span_28": (180, 29.853), "dscf_26": (168, 29.8535), "span_26": (165, 29.8505), "RCAN": (9000, 30.3)}


def made_up(networks=NETWORKS, plan=None, images_ms=None):
    runs = {name: Run(Latency(ms, 0.95 * ms, 1.1 * ms, ms, 9), None, images_ms) for name, (ms, _) in networks.items()}
    cost = Complexity(130_828, 8_535_015_424, 38_928_384, 22)
    return Profile(
        {name: Measured(cost, cost.flops, {"eager": run}) for name, run in runs.items()}, MACHINE, plan or Plan()
    )


PSNR = {name: psnr for name, (_, psnr) in NETWORKS.items()}


def labels(figure):
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


def test_every_network_is_a_point_with_its_name_and_parameters():
    figure = draw(made_up(), PSNR)
    assert [text.get_text() for text in labels(figure)] == [f"{name}, 0.131 M" for name in NETWORKS]
    points = [container.lines[0].get_xydata()[0].tolist() for container in figure.axes[0].containers]
    assert points == [list(point) for point in NETWORKS.values()]


def test_labels_cover_neither_each_other_nor_leave_the_axes():
    figure = draw(made_up(), PSNR)
    figure.draw_without_rendering()  # lays everything out
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in labels(figure)]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    inside = figure.axes[0].get_window_extent(renderer)
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


def test_axes_have_units_and_the_machine_is_named():
    figure = draw(made_up(), PSNR)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "Latency of one image, eager (ms; 256×256: median, quartiles)"
    assert axes.get_ylabel() == "PSNR (dB)"
    assert axes.get_xscale() == "log"
    assert figure.texts[0].get_text() == "Some CPU, 2 threads; torch 2.13.0, python 3.11.7"


def test_the_mean_over_images_is_drawn_if_there_is_one():
    figure = draw(made_up(plan=Plan(images=(1, 2)), images_ms=50.0), PSNR)
    assert "mean over 2 images" in figure.axes[0].get_xlabel()
    assert figure.axes[0].containers[0].lines[0].get_xdata().tolist() == [50.0]


def test_a_hundredth_of_a_decibel_does_not_fill_the_image():
    figure = draw(made_up({"a": (10, 0), "b": (11, 0)}), {"a": 29.85, "b": 29.86})
    low, high = figure.axes[0].get_ylim()
    assert high - low >= 0.1 - 1e-9
    assert figure.axes[0].get_xscale() == "linear"


def test_names_are_not_formulas(tmp_path):
    figure = draw(made_up({"a$b$_{": (10, 0)}), {"a$b$_{": 30})
    save(figure, tmp_path / "figure.svg")
    assert "a$b$_{, 0.131 M" in (tmp_path / "figure.svg").read_text()


def test_networks_without_psnr_are_left_out_and_none_at_all_is_refused():
    assert len(labels(draw(made_up(), {"RCAN": 30.0}))) == 1
    with pytest.raises(DscsrError, match=r"Expected PSNR and a time .* Give --psnr NAME=VALUE or --data HR LR"):
        draw(made_up())


def test_a_image_that_is_there_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    file = tmp_path / "figure.png"
    file.write_bytes(b"old")
    figure = draw(made_up(), PSNR)
    with monkeypatch.context() as patch:
        patch.setattr(figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(figure, file)
    assert file.read_bytes() == b"old"
    save(figure, file)
    assert Image.open(file).size == (1280, 800)
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]
