"""Batches on their way into a network."""

import numpy as np
import pytest
import torch

from dscsr_arch.errors import DscsrError
from dscsr_model.training.images import check_batch, turned


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_is_turned_its_own_way(dtype):
    """In BasicSR's order: mirrored left to right, top to bottom, then rows and columns exchanged."""
    images = torch.randint(0, 256, (8, 3, 5, 5)).to(dtype)
    result = turned(images, torch.arange(8))
    assert result.dtype == dtype
    for number, (before, after) in enumerate(zip(images.numpy(), result.numpy(), strict=True)):
        image = before.transpose(1, 2, 0)
        image = image[:, ::-1] if number & 1 else image
        image = image[::-1] if number & 2 else image
        image = image.transpose(1, 0, 2) if number & 4 else image
        assert np.array_equal(after, image.transpose(2, 0, 1)), number
    assert len({image.numpy().tobytes() for image in turned(images[:1].expand(8, -1, -1, -1), torch.arange(8))}) == 8


def test_a_batch_has_images():
    check_batch({"lq": torch.zeros(1, 3, 4, 4)}, ["lq"])
    with pytest.raises(DscsrError, match=r"as `gt` of each batch, but got none\. Take a dataset of image pairs"):
        check_batch({"lq": torch.zeros(1, 3, 4, 4)}, ["gt"])
    with pytest.raises(DscsrError, match=r"as `lq` of each batch, but got the shape \(1, 5, 3, 4, 4\)"):
        check_batch({"lq": torch.zeros(1, 5, 3, 4, 4)}, ["lq"])
