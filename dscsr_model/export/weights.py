"""Weight files that are shipped: official names, and beside them the metadata that shapes cannot tell."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from dscsr_arch.metadata import describe, to_metadata
from dscsr_arch.weight_files import METADATA, save_state_dict


def to_weights(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write the weights of ``network``, as it is, with its metadata.

    Args:
        network: A network that `load_model` knows.
        path: ``*.safetensors``, or any other name for a file of torch.save, ``{params: …, metadata: …}``, which
            BasicSR, spandrel and `load_model` read. An existing file is replaced.
        half: Round the weights to float16. Readers compute in the precision that they choose.
    """
    path, metadata = Path(path), to_metadata(describe(network))
    dtype = torch.float16 if half else torch.float32
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import save

        path.write_bytes(save(weights, metadata))  # its save_file would let nobody else read the file
    else:
        save_state_dict({"params": weights, METADATA: metadata}, path)
