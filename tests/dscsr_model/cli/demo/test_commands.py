"""What the demo makes of the log of a run: progress, and the metrics as lines of their own."""

import pytest
from tqdm import tqdm

from dscsr_arch.errors import DscsrError
from dscsr_model.cli.demo import commands

START = "2026-11-21 15:28:26,226 INFO: [t..][epoch:  0, iter:   1,100, lr:(4.231e-04,)] [eta: 0:01:26] "


def test_progress():
    with tqdm(total=2000, disable=False) as bar:
        commands.report(f"{START}l_pix: 2.5000e-02 images_per_s: 6.7e+01\n", bar)
        assert bar.n == 1100
        assert bar.postfix == "loss 0.0250"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("\t # psnr: 30.1374\tBest: 30.1374 @ 2000 iter", "  held-out photographs PSNR 30.1374"),
        ("\t # psnr_w0.5: 29.9263\tBest: 29.9263 @ 800 iter", "  held-out photographs PSNR 29.9263 at width 0.5"),
    ],
)
def test_metrics_stand_alone(capsys, line, said):
    commands.report(line, None)
    assert capsys.readouterr().out == said + "\n"


def test_a_failed_run_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = []
    with pytest.raises(DscsrError, match=r"(?s)`dscsr report none` failed; the end of its output:\n.*a folder"):
        commands.run("report", "none", follow=lines.append)
    assert "Expected a folder" in lines[-1]
