"""Shared by the tests of networks and their files."""

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def file(tmp_path):
    """Write a file, and give its path."""

    def save(content, name="w.pth", *metadata):
        (save_file if name.endswith(".safetensors") else torch.save)(content, tmp_path / name, *metadata)
        return tmp_path / name

    return save
