"""Batches on their way into a network."""

import pytest
import torch

from dscsr_arch.errors import DscsrError
from dscsr_model.training.images import check_batch


def test_a_batch_has_images():
    check_batch({"lq": torch.zeros(1, 3, 4, 4)}, ["lq"])
    with pytest.raises(DscsrError, match=r"as `gt` of each batch, but got none\. Take a dataset of image pairs"):
        check_batch({"lq": torch.zeros(1, 3, 4, 4)}, ["gt"])
    with pytest.raises(DscsrError, match=r"as `lq` of each batch, but got the shape \(1, 5, 3, 4, 4\)"):
        check_batch({"lq": torch.zeros(1, 5, 3, 4, 4)}, ["lq"])
