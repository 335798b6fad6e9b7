"""What is said of the machine."""

import platform

import torch

from dscsr_model.profiling.machine import describe, in_words, processor


def test_facts_and_words():
    metadata = describe(torch.device("cpu"))
    assert metadata["device"] == "CPU"
    assert metadata["threads"] == torch.get_num_threads()
    assert metadata["torch"] == str(torch.__version__)
    words = in_words(metadata)
    assert str(metadata["cpu"]) in words
    assert f"torch {torch.__version__}" in words
    assert f"{metadata['threads']} thread" in words


def test_a_gpu_comes_first():
    metadata = {"device": "NVIDIA X", "cpu": "Some CPU", "threads": 2, "torch": "2", "cuda": "13", "python": "3"}
    assert in_words(metadata) == "NVIDIA X (host: Some CPU), 2 threads; torch 2, cuda 13, python 3"


def test_the_processor_is_named_as_its_maker_does(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some  CPU @ 3 GHz\nflags\t: x\n")
    assert processor(file) == "Some CPU @ 3 GHz"


def test_elsewhere_the_system_is_asked(tmp_path):
    assert processor(tmp_path / "none") == (platform.processor() or platform.machine())
