"""The image: what it shows."""

from made_up_profiles import measured, profile_of

from dscsr_model.profiling.plot import draw

NETWORKS = {"span_28": (180, 29.853), "dscf_26": (168, 29.8535), "span_26": (165, 29.8505), "RCAN": (9000, 30.3)}


def test_every_network_is_a_point_with_its_name_and_parameters():
    profile = profile_of(**{name: measured(ms) for name, (ms, _) in NETWORKS.items()})
    figure = draw(profile, {name: psnr for name, (_, psnr) in NETWORKS.items()})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{name}, 0.151\N{NO-BREAK SPACE}M" for name in NETWORKS
    ]
    containers = figure.axes[0].containers
    points = [container.lines[0].get_xydata()[0].tolist() for container in containers]
    assert points == [list(point) for point in NETWORKS.values()]
    looks = {(each.lines[0].get_marker(), each.lines[0].get_color()) for each in containers}
    assert len(looks) == len(NETWORKS)
