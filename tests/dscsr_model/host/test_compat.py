"""Each patch: the breakage is seen where it is and only there, and what was broken works afterwards."""

import importlib
import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import distributed

import dscsr_model
from dscsr_arch import torchvision_ops
from dscsr_model.host import compat, loop

NO_GPU = not torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _patched(monkeypatch):
    """BasicSR with all patches, on a machine that says it has no GPU; PyTorch itself is never patched."""
    dscsr_model.register()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    loop.leave()
    for function in (torch.load, torch.cuda.current_device, torch.library.register_fake):
        assert function.__module__.startswith("torch."), function


# --- imports ---


@pytest.fixture
def torchvision(tmp_path, monkeypatch):
    """Replace torchvision by one that is written by the test, and forget it afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()

    def write(code: str) -> None:
        folder = tmp_path / "torchvision"
        folder.mkdir()
        (folder / "__init__.py").write_text("from torchvision import part\nfrom torchvision import ops\n")
        (folder / "part.py").write_text("")
        (folder / "ops.py").write_text(code)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


MISSING_OP = """
import torch.library

@torch.library.register_fake("torchvision::dscsr_has_no_such_operator")
def fake():
    pass
"""


def test_torchvision_without_its_operators_is_imported_all_the_same(torchvision):
    torchvision(MISSING_OP)
    with pytest.raises(RuntimeError, match="operator torchvision::"):
        importlib.import_module("torchvision")
    half = sys.modules["torchvision.part"]
    assert torchvision_ops.operators_missing()
    torchvision_ops.import_without_operators()
    assert sys.modules["torchvision"].ops.fake
    assert sys.modules["torchvision.part"] is not half
    assert not torchvision_ops.operators_missing()


def test_only_torchvisions_operators_may_be_missing(torchvision):
    torchvision(MISSING_OP.replace("torchvision::", "another::"))
    for step in (torchvision_ops.operators_missing, torchvision_ops.import_without_operators):
        with pytest.raises(RuntimeError, match="another::"):
            step()


def test_functional_tensor_stands_in():
    from torchvision.transforms import functional
    from torchvision.transforms.functional_tensor import rgb_to_grayscale

    image = torch.rand(2, 3, 5, 7)
    assert torch.equal(rgb_to_grayscale(image), functional.rgb_to_grayscale(image))
    assert importlib.util.find_spec(compat.FUNCTIONAL_TENSOR) is not None


# --- running ---


def test_what_is_patched_or_not_there_is_not_broken(monkeypatch):
    before = compat.applied()
    dscsr_model.register()
    assert compat.applied() == before
    assert {*before} >= {*compat.RUN_PATCHES}
    assert not [patch.name for patch in compat.IMPORT_PATCHES + compat.RUN_PATCHES if patch.broken()]
    for module in ("utils.options", "utils.dist_util", "models.base_model", "models.sr_model"):
        monkeypatch.delitem(sys.modules, f"basicsr.{module}")  # of another BasicSR
    assert not [patch.name for patch in compat.RUN_PATCHES if patch.broken()]


STATE = {"epoch": 3, "iter": 40, "optimizers": [], "schedulers": [{"milestones": Counter([8, 9])}]}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """BasicSR's train script as it is run, not imported: its functions are defined after our patches."""
    import basicsr.train

    torch.save(STATE | {"tensor": torch.ones(2)}, tmp_path / "40.state")
    options = {
        "name": "run",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {"train": {"prefetch_mode": "cuda", "pin_memory": True}, "val": {"prefetch_mode": "cpu"}},
        "path": {"resume_state": str(tmp_path / "40.state")},
        "network_g": {},
        "val": None,
        "logger": {},
    }
    (tmp_path / "opt.yml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr(sys, "argv", ["train.py", "-opt", str(tmp_path / "opt.yml"), "--local-rank=3"])
    source = Path(basicsr.train.__file__).read_text()
    namespace: dict = {"__name__": "a_script"}
    exec(compile(source, "train.py", "exec"), namespace)
    # As its train_pipeline begins, with its names.
    exec(
        "def begin(root):\n opt, args = parse_options(root, is_train=True)\n return opt, args, load_resume_state(opt)",
        namespace,
    )
    return namespace


def test_a_script_resumes_on_the_cpu_without_cuda_s_prefetcher(script, tmp_path, capsys):
    opt, args, state = script["begin"](str(tmp_path))
    assert args.local_rank == 3
    assert {key: state[key] for key in STATE} == STATE
    assert state["tensor"].device.type == "cpu"
    assert opt["path"]["pretrain_network_g"].endswith("models/net_g_40.pth")
    assert opt["datasets"]["train"]["prefetch_mode"] is None
    assert opt["datasets"]["train"]["pin_memory"] is False
    assert opt["datasets"]["val"]["prefetch_mode"] == "cpu"
    assert capsys.readouterr().err == "dscsr: no GPU is usable, so `prefetch_mode: cuda` is taken as `~`.\n"
    opt["path"]["resume_state"] = "no such file"
    with pytest.raises(FileNotFoundError):
        script["load_resume_state"](opt)
    assert script["torch"] is torch
    loop.leave()
    if NO_GPU:
        opt["path"]["resume_state"] = str(tmp_path / "40.state")
        with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
            script["load_resume_state"](opt)


@pytest.mark.parametrize(
    ("model", "forced", "seed"),
    [
        ("EfficientSRModel", ["--force_yml", "name=other", "manual_seed=7"], 7),
        ("EfficientSRModel", [], 3),
        ("SRModel", ["--force_yml", "manual_seed=7"], 3),  # BasicSR's own runs stay as they are
    ],
)
def test_a_forced_seed_is_the_seed_of_our_models(script, monkeypatch, model, forced, seed):
    monkeypatch.setattr(sys, "argv", [*sys.argv, *forced])
    file = Path(sys.argv[2])
    file.write_text(f"{file.read_text()}\nmodel_type: {model}\ntrain: {{total_iter: 50}}\n")
    script["parse_options"](str(file.parent))
    drawn = torch.initial_seed(), np.random.randint(1000), random.random()  # noqa: NPY002 - the generator that BasicSR seeds
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    assert drawn == (seed, np.random.randint(1000), random.random())  # noqa: NPY002


def test_a_project_s_own_parse_options_that_gives_something_else_is_let_be():
    options = {"name": "theirs"}
    assert loop.entering(lambda root: options)("root") is options


@pytest.mark.parametrize("launcher", ["pytorch", "slurm"])
@pytest.mark.parametrize(
    ("gpus", "local_rank", "chosen", "backend"),
    [(0, "1", [], "gloo"), (4, "1", [1], "nccl"), (1, "1", [0], "nccl"), (4, None, [2], "nccl")],
)
def test_init_dist(monkeypatch, launcher, gpus, local_rank, chosen, backend):
    """The device of LOCAL_RANK, not of the global rank, if there is one; BasicSR sets the variables under slurm."""
    from basicsr.utils import dist_util

    ranks = {"RANK": "6", "LOCAL_RANK": local_rank, "SLURM_PROCID": "6", "SLURM_NTASKS": "8", "SLURM_NODELIST": "node"}
    for name in (*ranks, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, ranks.get(name) or "")
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK")
    devices: list[int] = []
    begun: list[dict] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(distributed, "init_process_group", lambda **kwargs: begun.append(kwargs))
    monkeypatch.setattr("subprocess.getoutput", lambda command: "node")
    getattr(dist_util, f"_init_dist_{launcher}")("nccl")
    assert (devices, begun) == (chosen, [{"backend": backend}])
    assert dist_util.torch is torch
