"""Keys and values of an option file: what is declared passes, what is not is told with what was meant."""

import importlib.util

import option_files
import pytest
from option_files import REMOVED

from dscsr_model.options.datasets import PairedImageDataset
from dscsr_model.options.sections import Options

OURS = {"model_type": "EfficientSRModel"}
PAMS = {"method": "pams", "bits": 4}
SECTIONS = {key: Options.inside(key) for key in ("path", "train", "val", "logger")}


def at(section, key):
    return f"{section}: {key}" if section else key


@pytest.mark.parametrize("model", ["SRModel", "EfficientSRModel", "DistillationModel", "CSDModel"])
def test_good_options_pass(check, model):
    assert check({}, model) == {}
    if model != "DistillationModel":
        assert check({}, model, is_train=False) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"val": None, "datasets:val": REMOVED},
        {"model_type": "SwinIRModel", "network_g": {"type": "SwinIR", "upscale": 4, "window_size": 8,
                                                    "upsampler": "pixelshuffle"}},
        {"network_g": {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_block": 1}},
        {"train:pixel_opt": None, "train:perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}}},
        {"name": "1e5", "datasets:val:name": "1e5", "val:val_freq": 5e3},
    ],
    ids=", ".join,
)  # fmt: skip
def test_variants_pass(check, changes):
    assert check(changes) == {}


def test_testing_ignores_what_only_training_reads(check):
    assert check({"train": {"total_itr": "1e-4"}, "logger": {"print_frq": 0}}, is_train=False) == {}


@pytest.mark.parametrize("model", ["SRModel", "CSDModel"])
def test_needed_keys(check, model):
    """Each by itself: without a section nothing is said of what is in it."""
    needed = [(section, key) for section, kind in (("", Options), *SECTIONS.items())
              for key in kind.needed("train", model) if key != "val"]  # fmt: skip
    needed += [("datasets: train", key) for key in PairedImageDataset.needed("train", model) - {"type"}]
    assert len(needed) >= 25
    at_once = {at(*place).replace(": ", ":"): REMOVED for place in needed if place[0]}
    faults = check(at_once, model)
    for section, key in needed:
        found = faults if section else check({key: REMOVED}, model)
        assert "no such key. Add" in found[at(section, key)], (section, key)
    assert "no such key" in check({"datasets:train:type": REMOVED}, model)["datasets: train: type"]


WRONG: dict[str, list[tuple[object, str]]] = {
    "name": [(1, "text, but got 1"), ("", "text"), ("..", "a folder name below experiments/"),
             ("span/x4", "a folder name below experiments/")],  # the log's name would hold it, too
    "scale": [(0, "at least 1"), (True, "got true")],
    "num_gpu": [("all", "`auto` or a whole number"), (True, "got true")],
    "manual_seed": [(-1, "between 0 and")],
    "train:total_iter": [("abc", "a whole number of iterations, at least 1, but got the text 'abc'"), (10.5, "10.5"),
                         ("5e5", "Write `500000`: YAML wants a dot and a sign with an exponent (`5.0e+5`)")],
    "train:warmup_iter": [(-2, "-1 for none"), ("-1", "`--force_yml` hands")],
    "train:ema_decay": [(1.5, "from 0 to below 1"), (float("nan"), "got nan")],
    "train:optim_g": [("Adam", "a section")],
    "train:optim_g:lr": [(0, "above 0"), ("1e-4", "Write `0.0001`: "), (10**400, "a number above 0")],
    "train:optim_g:betas": [(0.9, "a list of numbers")],
    "train:scheduler:milestones": [(5, "a list of numbers"), (["1e5", 2], "Write `100000`: ")],
    "train:pixel_opt:type": [(["L1Loss"], "text")],
    "train:pixel_opt:loss_weight": [("one", "Expected a number, but got the text 'one'"), ("1.5e2", "Write `150`: ")],
    "train:precision": [("fp8", "Expected one of `fp32`, `bf16`, `fp16`, but got the text 'fp8'")],
    "train:compile": [("fast", "Expected true, false or a mode of torch.compile, but got the text 'fast'")],
    "train:grad_clip_norm": [(-1.0, "a number above 0, but got -1.0")],
    "val:save_img": [("yes please", "true or false")],
    "val:metrics": [([1], "a section")],
    "val:metrics:psnr": [("calculate_psnr", "a section")],
    "val:metrics:psnr:better": [("larger", "`higher`")],
    "val:best_metric": [("psnr_y", "Did you mean `psnr`?")],
    "datasets:train:batch_size_per_gpu": [(0, "at least 1"), (2.0, "at least 1, but got 2.0")],
    "datasets:train:num_worker_per_gpu": [(-1, "from 0 to 256"), (10**9, "from 0 to 256")],
    "datasets:train:dataset_enlarge_ratio": [(0, "above 0")],
    "datasets:train:prefetch_mode": [("gpu", "`cpu`, `cuda`")],
    "datasets:val:filename_tmpl": [("x4", "with `{}`"), ("{}{", "with `{}`"), ("{}{x}", "with `{}`")],
    "datasets:val:io_backend:type": [("dsik", "Did you mean `disk`?")],
    "network_g:img_range": [("2e2", "Write `200`: ")],
}  # fmt: skip
_ROUNDS = 4


@pytest.mark.parametrize("number", range(_ROUNDS))
def test_wrong_values(check, number):
    """Many in one file: each is told. Whole sections come in a round of their own.

    One of each kind: what every option takes is declared once, and stands in docs/options.md, which is kept current.
    """
    cases = {key: values[number] for key, values in WRONG.items() if number < len(values)}
    sections = {key for key in cases if any(other.startswith(f"{key}:") for other in WRONG)}
    for keys in (sorted(cases.keys() - sections), sorted(sections - {"val:metrics:psnr"}), ["val:metrics:psnr"]):
        found = check({key: cases[key][0] for key in keys if key in cases}, "EfficientSRModel")
        for key in keys:
            if key in cases:
                assert cases[key][1] in found[key.replace(":", ": ")]


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"model_type": ["SRModel"]}, "model_type", "text"),
        ({"path": None}, "path", "a section (indented `key: value` lines), but got nothing (`~`)"),
        ({"datasets": {}}, "datasets", "at least one dataset"),
        ({"datasets:val:mean": [0.5]}, "datasets: val: std", "`mean` and `std` together"),
        ({"train:pixel_opt": {"loss_weight": 1}}, "train: pixel_opt: type", "no such key. Add `type:`"),
        ({"train:pixel_opt": REMOVED}, "train: pixel_opt", "a loss (`pixel_opt` or `perceptual_opt`), but got none"),
        ({"network_t": option_files.edsr()}, "network_t", "`teacher:` section"),
        ({"train:total_iter": REMOVED, "train:total_itr": 10}, "train: total_itr", "Did you mean `total_iter`?"),
        ({**OURS, "train:quantize": {**PAMS, "bits": 5}}, "train: quantize: bits", "one of `4`, `8`, but got 5"),
        ({**OURS, "train:quantize": {"bits": 4}}, "train: quantize: method", "one of `pact`, `pams`, but got no such"),
        (
            {**OURS, "train:quantize": {**PAMS, "full_precision": ["bodi.*"]}},
            "train: quantize",
            "'bodi.*', which meets",
        ),
    ],
)
def test_faults_of_sections(check_all, changes, key, text):
    check_all(changes, {key: text})


def test_keys_that_are_not_known(check_all):
    meant = {
        "manual_sed": "`manual_seed`", "path:pretrained_network_g": "`pretrain_network_g`",
        "train:emadecay": "`ema_decay`", "datasets:val:filename_template": "`filename_tmpl`",
        "network_g:num_feats": "`num_feat`", "train:pixel_opt:loss_wieght": "`loss_weight`",
        "train:scheduler:milestone": "`milestones`", "val:metrics:psnr:test_y": "`test_y_channel`",
    }  # fmt: skip
    others = {
        "train:val_freq": "It belongs under `val:`.", "train:zzz": "Known here: `ema_decay`",
        "datasets:train:io_backend:db_path": "Expected a known option, but got `db_path`. Known here: `type`.",
    }  # fmt: skip
    expected = {key: f"Did you mean {name}?" for key, name in meant.items()} | others
    found = {key.replace(":", ": "): text for key, text in expected.items()}
    check_all(dict.fromkeys(expected, 1), found)
    check_all({"logger:wandb": {"projekt": "x"}}, {"logger: wandb: projekt": "Did you mean `project`?"})


def test_what_testing_needs(check_all):
    check_all({"val": REMOVED}, {"val": "no such key"}, is_train=False)
    check_all({"val": None}, {"val": "nothing (`~`)"}, is_train=False)
    check_all({"val:suffix": REMOVED}, {"val: suffix": "Add `suffix: ~`"}, is_train=False)


def test_loggers_need_their_packages(check_all, monkeypatch):
    found, there = importlib.util.find_spec, {"wandb", "tensorboard"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in there or found(name))
    wandb = {"logger:wandb": {"project": "p"}}
    check_all(wandb, {"logger: use_tb_logger": "wandb needs TensorBoard"})
    check_all({**wandb, "logger:use_tb_logger": True}, {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in there else found(name))
    missing = {
        "logger: wandb: project": "Expected the package `wandb` for a project, but got none installed",
        "logger: use_tb_logger": "Expected the package `tensorboard` for `use_tb_logger: true`",
    }
    check_all({**wandb, "logger:use_tb_logger": True}, missing)


@pytest.mark.parametrize(("option", "value", "stock"), [("output", "uint8", "float32"), ("augment", "device", "cpu")])
def test_only_our_models_take_bytes_and_crops_that_are_to_be_turned(check_all, option, value, stock):
    changes = {f"datasets:train:{option}": value}
    check_all(changes, {}, "raw crops")
    said = f"Expected `{stock}`, but got `{value}`. SRModel trains on what it is given"
    check_all({**changes, "model_type": "SRModel"}, {f"datasets: train: {option}": said}, "raw crops")


@pytest.mark.parametrize("name", ["train_2", "test_1", "valid"])
def test_datasets_of_another_phase(check_all, data, name):
    section = option_files.paired("x", data)
    check_all({f"datasets:{name}": section}, {f"datasets: {name}": "`train`, `val` or `val_…`"})
    if name == "train_2":
        check_all({"datasets:train": section}, {"datasets: train": "a testing dataset"}, is_train=False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RealESRGANDataset", "which gives ground truth and kernels, from which RealESRNetModel makes `lq`"),
        ("SingleImageDataset", "which gives no ground truth"),
        ("REDSDataset", "which gives sequences of images"),
    ],
)
@pytest.mark.parametrize("model", ["SRModel", "EfficientSRModel"])
def test_datasets_of_something_else_than_pairs(check_all, model, kind, words):
    changes = {f"datasets:train:{name}": REMOVED for name in ("dataroot_gt", "gt_size", "use_hflip", "use_rot")}
    check_all({"datasets:train:type": kind, **changes}, {"datasets: train: type": words}, model)


def test_two_sets_of_one_name(check_all, data):
    check_all({"datasets:val_2": option_files.paired("Set", data)}, {"datasets: val_2: name": "which is `val`"})
    check_all({"datasets:val_2": option_files.paired("another", data)}, {})


def test_swa(check_all):
    """Stochastic weight averaging stands alone, and averages something."""
    ours, alone = "EfficientSRModel", {"train:ema_decay": 0}
    check_all({**alone, "train:swa": {"start": 0.5, "every": 5}}, {}, ours)
    for swa, key, text in (
        (
            {},
            "every",
            "two networks or more to average, but got one, as `every: 100` has no other iteration from 8 to 10",
        ),
        ({"start": 1.0}, "start", "a number between 0 and 1, but got 1.0"),
        ({"start": 0.5, "evry": 2}, "evry", "Did you mean `every`?"),
    ):
        check_all({**alone, "train:swa": swa}, {f"train: swa: {key}": text}, ours)
    beside = "one kind of average, but got `swa:` beside `ema_decay: 0.999`. Set `ema_decay: 0`, or remove `swa:`."
    check_all({"train:swa": {"every": 1}}, {"train: swa": beside}, ours)
    check_all({**alone, "train:swa": {"every": 1}}, {"train: swa": "a model type that knows `swa:`"}, "SRModel")
