"""FrequencyLoss, the class that option files name; its maths is tested in functional/, wrong values in host/options."""

import pytest
from small_models import build, options, train

from dscsr_model.losses.functional import frequency_loss


def test_an_option_file_names_it_and_the_log_has_it(tmp_path):
    section = {"type": "FrequencyLoss", "loss_weight": 0.05, "norm": "ortho", "reduction": "sum"}
    model = train(build(options(tmp_path, **{"train:frequency_opt": section, "train:precision": "bf16"})), [1])
    expected = 0.05 * frequency_loss(model.output, model.gt, norm="ortho", reduction="sum")
    assert model.get_current_log()["l_frequency"] == pytest.approx(expected.item(), rel=1e-6)
