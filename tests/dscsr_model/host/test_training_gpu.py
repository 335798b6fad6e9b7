"""Whole trainings on GPUs: batches that are prefetched there, pinned memory, several GPUs."""

import os
from pathlib import Path

import option_files
import pytest
import torch
import training_runs
from small_models import SPAN, build, loader_of, options

from dscsr_arch.checkpoint import read_state_dict

ROOT = Path(__file__).resolve().parents[3]


def section(root, **changes):
    """Six pairs, whole, as uint8."""
    data = option_files.make_data(root / "data")
    return {
        "name": "pairs", "phase": "train", "type": "PairedCropDataset", "scale": 4, "io_backend": {"type": "lmdb"},
        "dataroot_gt": str(data / "GT.lmdb"), "dataroot_lq": str(data / "LQ.lmdb"), "gt_size": 48, "use_hflip": False,
        "use_rot": False, "seed": 0, "output": "uint8", "num_worker_per_gpu": 0, "batch_size_per_gpu": 1, **changes,
    }  # fmt: skip


def test_a_batch_is_not_overwritten_while_the_gpu_still_has_to_read_it(tmp_path, device):
    """BasicSR's prefetcher writes batches on a stream of its own; here the GPU is far behind when it does."""
    from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher

    gpu = device.type == "cuda"
    model = build(options(tmp_path, **{"network_g": {**SPAN, "upscale": 4}, "scale": 4, "num_gpu": int(gpu)}))
    loader = loader_of(section(tmp_path, pin_memory=gpu))
    slow = torch.rand(4096, 4096, device=device) if gpu else None
    seen = [{}, {}]
    for images, prefetcher in zip(seen, (CPUPrefetcher, lambda _: CUDAPrefetcher(loader, {"num_gpu": 1})), strict=True):
        batches = prefetcher(loader) if gpu else CPUPrefetcher(loader)
        while (data := batches.next()) is not None:
            if gpu:
                for _ in range(20):
                    slow = slow @ slow / 4096
            model.feed_data(data)
            images[data["gt_path"][0]] = model.lq.clone(), model.gt.clone()
            del data
    assert len(seen[0]) == 6
    for path, images in seen[0].items():
        assert all(torch.equal(*pair) for pair in zip(images, seen[1][path], strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("prefetch", ["cuda", "cpu", None])
def test_a_run_on_a_gpu_saves_validates_and_resumes(tmp_path, run_python, prefetch, gpu):
    training_runs.write_short(
        tmp_path,
        "CSDModel",
        **{
            "num_gpu": 1,
            "datasets:train:prefetch_mode": prefetch,
            "datasets:train:pin_memory": True,
            "val:val_freq": 9,
        },
    )
    command = ["-m", "dscsr_model.cli", "train", "-opt", "opt.yml"]
    root = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    first = run_python(*command, env=root)
    assert first.returncode == 0, first.stderr
    assert "psnr" in first.stderr + first.stdout
    (newest,) = tmp_path.glob("experiments/*/models/net_g_9.pth")
    assert all(tensor.isfinite().all() for tensor in read_state_dict(newest).values())
    newest.unlink()
    assert run_python(*command, "--auto_resume", env=root).returncode == 0
    assert newest.exists()


@pytest.mark.gpu
def test_two_ranks_by_nccl(tmp_path, run_python, gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, but PyTorch sees {torch.cuda.device_count()}")
    training_runs.write_short(tmp_path, "DSCLoRAModel", **{"num_gpu": 2})
    root = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", 29517, "-m", "dscsr_model.cli"]
    done = run_python(*command, "train", "-opt", "opt.yml", "--launcher", "pytorch", env=root)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("experiments/*/models/net_g_latest.pth"))
