"""Every fault of an option file that the check knows: one case each, with the words a user reads."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from option_files import REMOVED, changed

import dscsr_model
from dscsr_arch.errors import DscsrError
from dscsr_model.host.options.check import Fault, OptionsError, check_options
from dscsr_model.host.options.faults import nearest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return option_files.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def training(data: Path) -> dict[str, Any]:
    return option_files.training_options(data)


@pytest.fixture
def testing(data: Path) -> dict[str, Any]:
    return option_files.testing_options(data)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Check options as the only file of a working directory of their own."""
    monkeypatch.chdir(tmp_path)

    def run(options: dict[str, Any], *, is_train: bool = True, **arguments: Any) -> list[Fault]:
        file = option_files.write_options(tmp_path / "options.yml", options)
        return option_files.faults_of(file, is_train=is_train, **arguments)

    return run


def only(faults: list[Fault]) -> Fault:
    assert len(faults) == 1, "\n".join(map(str, faults))
    return faults[0]


def assert_fault(faults: list[Fault], key: str, *words: str) -> None:
    """There is one fault, at ``key``, and its message holds ``words``."""
    fault = only(faults)
    assert fault.key == key
    for word in words:
        assert word in str(fault), str(fault)


# --- what passes ---


def test_good_training_options_pass(check, training):
    assert check(training) == []


def test_good_test_options_pass(check, testing):
    assert check(testing, is_train=False) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"val": REMOVED, "datasets:val": REMOVED},
        {"train:scheduler": {"type": "CosineAnnealingRestartLR", "periods": [10], "restart_weights": [1]}},
        {
            "model_type": "SwinIRModel",
            "network_g": {"type": "SwinIR", "upscale": 4, "window_size": 8, "upsampler": "pixelshuffle"},
        },
        {"network_g": {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_block": 1}},
        {"train:pixel_opt": None, "train:perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}}},
        {"num_gpu": "auto", "datasets:val_2": {"type": "SingleImageDataset"}, "val:metrics": None},
        {"datasets:train:dataset_enlarge_ratio": 100, "datasets:train:batch_size_per_gpu": 300},
        {"name": "debug_tiny"},
    ],
    ids=lambda changes: ", ".join(changes) or "unchanged",
)
def test_variants_pass(check, training, data, changes):
    options = changed(training, changes)
    if "val_2" in options["datasets"]:
        single = {"name": "two", "dataroot_lq": str(data / "lq"), "io_backend": {"type": "disk"}}
        options["datasets"]["val_2"].update(single)
    assert check(options) == []


def test_testing_ignores_what_only_training_reads(check, testing):
    options = changed(testing, {"train": {"total_itr": "1e-4"}, "logger": {"print_frq": 0}})
    assert check(options, is_train=False) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "TheirModel", "their_key": 1, "path:their_path": "x", "val:their_metric": {"x": 1}},
        {
            "model_type": "TheirModel",
            "network_t": {"type": "TheirArch", "width": 8},
            "train:their_opt": {"type": "TheirLoss"},
        },
        {"model_type": "TheirModel", "train:optim_g:type": "Lion", "train:scheduler:type": "Theirs"},
        {"model_type": "RealESRGANModel", "l1_gt_usm": True, "resize_prob": [0.2, 0.7, 0.1], "train:net_d_iters": 1},
        {"datasets:train": {"name": "t", "type": "TheirDataset", "their_key": 1, "dataroot_gt": "s3://bucket/x"}},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_types_of_others_keep_their_keys(check, training, their_types, changes):
    options = changed(training, changes)
    options["datasets"]["train"].update(num_worker_per_gpu=0, batch_size_per_gpu=2)
    assert check(options) == []


@pytest.fixture
def their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, a dataset and a network of another plugin in BasicSR's registries."""
    dscsr_model.register()
    from basicsr.utils import registry

    class TheirArch(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

    for target, name, cls in (
        (registry.MODEL_REGISTRY, "TheirModel", type("TheirModel", (), {})),
        (registry.DATASET_REGISTRY, "TheirDataset", type("TheirDataset", (), {})),
        (registry.ARCH_REGISTRY, "TheirArch", TheirArch),
    ):
        monkeypatch.setitem(target._obj_map, name, cls)


def test_signatures_of_registered_types_of_others_are_checked(check, training, their_types):
    options = changed(training, {"network_g": {"type": "TheirArch", "widht": 8}})
    assert_fault(check(options), "network_g: widht", "an argument of TheirArch", "Did you mean `width`?")


def test_the_loops_keys_are_checked_for_models_of_others(check, training, their_types):
    options = changed(training, {"model_type": "TheirModel", "train:total_iter": REMOVED})
    assert_fault(check(options), "train: total_iter", "no such key")


def test_dataroots_of_datasets_of_others_are_checked(check, training, their_types):
    section = {"name": "t", "type": "TheirDataset", "dataroot_gt": "nowhere", "num_worker_per_gpu": 0}
    options = changed(training, {"datasets:train": {**section, "batch_size_per_gpu": 2}})
    assert_fault(check(options), "datasets: train: dataroot_gt", "'nowhere', which does not exist")


# --- the file ---


def raises(path: Path, *words: str, **arguments: Any) -> None:
    with pytest.raises(OptionsError) as error:
        check_options(path, is_train=True, **arguments)
    for word in (path.name, *words):
        assert word in str(error.value), str(error.value)


def test_no_such_file_names_the_nearest(tmp_path):
    (tmp_path / "train_span_x4.yml").write_text("name: x")
    raises(tmp_path / "train_spam_x4.yml", "no such file", "Did you mean `train_span_x4.yml`?")


def test_no_such_folder(tmp_path):
    raises(tmp_path / "optoins" / "a.yml", "no such file", "does not exist either")


def test_a_bomb_of_aliases_does_not_go_off(tmp_path):
    bomb = "\n".join(
        f"{this}: &{this} [{', '.join([f'*{other}'] * 9)}]" for other, this in itertools.pairwise("abcdefghi")
    )
    file = tmp_path / "options.yml"
    file.write_text(f"a: &a [1]\n{bomb}\n")
    fault = only(option_files.faults_of(file, is_train=True))
    assert "Expected at most 100,000 values, but got aliases" in str(fault)


def test_a_folder_is_no_option_file(tmp_path):
    (tmp_path / "a.yml").write_text("name: x")
    raises(tmp_path, "a folder", "holds `a.yml`")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [1, 2\nscale: 4\n", ("Expected YAML, but got an error in line 2, column", "the one above it")),
        ("name: x\n\tscale: 4\n", ("line 2", "never with tabs")),
        ("name: x: y\n", ("line 1, column 8",)),
        ("name: !!python/object/apply:os.system ['touch pwned']\n", ("!!python/object/apply:os.system", "never run")),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", ("merge key `<<`",)),
        ("", ("an empty file",)),
        ("- a\n- b\n", ("`key: value` lines", "Is this the right file?")),
        ("name: 2024-13-45\n", ("one that it cannot",)),
        ("a: &a [*a]\n", ("Expected YAML",)),
    ],
)
def test_what_is_no_yaml_mapping(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "options.yml"
    file.write_text(text)
    raises(file, *words)
    assert list(tmp_path.iterdir()) == [file]


def test_other_encodings(tmp_path):
    file = tmp_path / "options.yml"
    file.write_bytes("name: x\n# größe\n".encode("latin-1"))
    raises(file, "UTF-8", "line 2")


def test_repeated_keys(check, training, tmp_path):
    check(training)
    file = tmp_path / "options.yml"
    file.write_text(file.read_text() + "scale: 4\n")
    count = len(file.read_text().splitlines())
    raises(file, "scale", f"again in line {count}, after line 3", "the last would win")


# --- --force_yml ---


def test_force_yml_is_applied_before_checking(check, training):
    assert check(changed(training, {"scale": 3}), force_yml=["scale=4"]) == []
    forced = ["train:total_iter=!!float1e2", "val:save_img=TRUE", "path:resume_state=none", "train:ema_decay=0.5"]
    assert check(training, force_yml=[*forced, "train:scheduler:milestones=[1, 2]"]) == []
    assert_fault(check(training, force_yml=["network_g:upscale=3"]), "network_g: upscale", "Expected 4", "got 3")


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ("train:total_iter", None, ("0 equal signs",)),
        ("train=a=b", None, ("2 equal signs",)),
        ("trian:total_iter=5", None, ("`trian`, which the file does not have", "Did you mean `train`?")),
        ("teacher:weights=x", None, ("cannot make new sections",)),
        ("name:x=1", None, ("`name`, which the file does not have",)),
        ("train:scheduler:milestones=[1, x]", None, ("cannot be read",)),
        ("train:total_itr=5", "train: total_itr", ("Did you mean `total_iter`?",)),
        ("train:optim_g:lr=1.0e-4", "train: optim_g: lr", ("the text '1.0e-4'", "Write `0.0001`:")),
        ("train:warmup_iter=-1", "train: warmup_iter", ("the text '-1'",)),
    ],
)
def test_faults_of_force_yml(check, training, entry, key, words):
    assert_fault(check(training, force_yml=[entry]), key or f"--force_yml {entry}", *words)


# --- keys and types ---

REQUIRED = [
    "name", "model_type", "scale", "num_gpu", "datasets", "network_g", "path", "train", "logger",
    "train:total_iter", "train:optim_g", "train:optim_g:type", "train:optim_g:lr", "train:scheduler",
    "train:scheduler:type", "val:val_freq", "val:save_img", "val:metrics:psnr:type",
    "logger:print_freq", "logger:save_checkpoint_freq", "logger:use_tb_logger",
    "datasets:train:name", "datasets:train:type", "datasets:train:dataroot_gt", "datasets:train:dataroot_lq",
    "datasets:train:io_backend", "datasets:train:io_backend:type", "datasets:train:gt_size",
    "datasets:train:use_hflip", "datasets:train:use_rot", "datasets:train:batch_size_per_gpu",
    "datasets:train:num_worker_per_gpu", "datasets:train", "datasets:val:name", "datasets:val:dataroot_gt",
]  # fmt: skip


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_keys(check, training, key):
    assert_fault(check(changed(training, {key: REMOVED})), key.replace(":", ": "), "no such key")


def test_testing_needs_val(check, testing):
    assert_fault(check(changed(testing, {"val": REMOVED}), is_train=False), "val", "no such key")


def test_testing_needs_a_suffix_to_save_images(check, testing):
    faults = check(changed(testing, {"val:suffix": REMOVED}), is_train=False)
    assert_fault(faults, "val: suffix", "Add `suffix: ~`")


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("manual_sed", "`manual_seed`"),
        ("path:pretrained_network_g", "`pretrain_network_g`"),
        ("train:emadecay", "`ema_decay`"),
        ("val:metric", "`metrics`"),
        ("logger:print_frequency", "`print_freq`"),
        ("logger:wandb", None),
        ("datasets:train:use_flip", "`use_hflip`"),
        ("datasets:val:filename_template", "`filename_tmpl`"),
        ("network_g:num_feats", "`num_feat`"),
        ("train:pixel_opt:loss_wieght", "`loss_weight`"),
        ("train:optim_g:weight_deca", "`weight_decay`"),
        ("train:scheduler:milestone", "`milestones`"),
        ("val:metrics:psnr:test_y", "`test_y_channel`"),
    ],
)
def test_misspelt_keys_are_suggested(check, training, key, suggestion):
    value: Any = {"projekt": "x"} if suggestion is None else 1
    faults = check(changed(training, {key: value}))
    if suggestion is None:
        assert_fault(faults, "logger: wandb: projekt", "Did you mean `project`?")
    else:
        assert_fault(faults, key.replace(":", ": "), f"Did you mean {suggestion}?")


def test_a_misspelt_required_key_is_one_fault(check, training):
    options = changed(training, {"train:total_iter": REMOVED, "train:total_itr": 10})
    assert_fault(check(options), "train: total_itr", "Did you mean `total_iter`?")


def test_a_key_in_the_wrong_section_is_told_where_it_belongs(check, training):
    assert_fault(check(changed(training, {"train:val_freq": 5})), "train: val_freq", "belongs under `val:`")


def test_a_strange_key_lists_the_known_ones(check, training):
    assert_fault(check(changed(training, {"train:zzz": 5})), "train: zzz", "Known here: `ema_decay`")


def test_a_second_network_points_to_teacher(check, training):
    assert_fault(check(changed(training, {"network_t": option_files.edsr()})), "network_t", "`teacher:` section")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", 1, ("text", "got 1")),
        ("name", "", ("text",)),
        ("name", "..", ("a folder name below experiments/",)),
        ("name", "/tmp/x", ("a folder name below experiments/",)),
        ("name", "span/x4", ("a folder name below experiments/",)),  # the log's name would hold it, too
        ("model_type", ["SRModel"], ("text",)),
        ("scale", 0, ("at least 1",)),
        ("scale", True, ("got true",)),
        ("num_gpu", "all", ("`auto` or a whole number",)),
        ("manual_seed", -1, ("between 0 and",)),
        ("path", None, ("a section", "nothing (`~`)")),
        ("datasets", [], ("a section",)),
        ("datasets", {}, ("at least one dataset",)),
        ("datasets:val", None, ("a section",)),
        ("train:total_iter", "abc", ("a whole number of iterations", "the text 'abc'")),
        ("train:total_iter", 10.5, ("got 10.5",)),
        ("train:warmup_iter", -2, ("-1 for none",)),
        ("train:ema_decay", 1.5, ("from 0 to below 1",)),
        ("train:optim_g", "Adam", ("a section",)),
        ("train:optim_g:lr", 0, ("above 0",)),
        ("train:optim_g:betas", 0.9, ("a list of numbers",)),
        ("train:optim_g:betas", [0.9, 2.0], ("its error: Invalid beta",)),
        ("train:optim_g:betas", [0.9, 0.99, 0.999], ("values that Adam takes", "too many values to unpack")),
        ("train:optim_g:lr", 10**400, ("a number above 0",)),
        ("train:pixel_opt", {"loss_weight": 1}, ("no such key", "Add `type:`")),
        ("train:pixel_opt:type", ["L1Loss"], ("text",)),
        ("train:pixel_opt:reduction", "none", ("values that L1Loss takes", "it gives (1, 3, 8, 8) values, not one")),
        ("train:scheduler", {"type": "CosineAnnealingRestartLR", "periods": [0]}, ("values that Cosine",)),
        ("train:scheduler:milestones", 5, ("a list of numbers",)),
        ("train:scheduler:restarts", [0, 5], ("do not match",)),
        ("train:pixel_opt:reduction", "average", ("values that L1Loss takes", "average")),
        ("val:val_freq", 0, ("at least 1",)),
        ("val:save_img", "yes please", ("true or false",)),
        ("val:metrics", [1], ("a section",)),
        ("val:metrics:psnr", "calculate_psnr", ("a section",)),
        ("val:metrics:psnr:crop_border", -4, ("at least 0",)),
        ("val:metrics:psnr:better", "larger", ("`higher`",)),
        ("logger:print_freq", 0, ("at least 1",)),
        ("datasets:train:batch_size_per_gpu", 0, ("at least 1",)),
        ("datasets:train:batch_size_per_gpu", 2.0, ("at least 1", "got 2.0")),
        ("datasets:train:num_worker_per_gpu", -1, ("from 0 to 256",)),
        ("datasets:train:num_worker_per_gpu", 10**9, ("from 0 to 256",)),
        ("datasets:train:dataset_enlarge_ratio", 0, ("above 0",)),
        ("datasets:train:prefetch_mode", "gpu", ("`cpu`, `cuda`",)),
        ("datasets:train:use_rot", "true", ("true or false", "the text 'true'")),
        ("datasets:val:filename_tmpl", "x4", ("with `{}`",)),
        ("datasets:val:filename_tmpl", "{}{", ("with `{}`",)),
        ("datasets:val:filename_tmpl", "{}{x}", ("with `{}`",)),
        ("datasets:val:mean", [0.5], ("`mean` and `std` together",)),
        ("datasets:val:io_backend:type", "dsik", ("Did you mean `disk`?",)),
        ("path:strict_load_g", 1, ("true or false",)),
    ],
)
def test_wrong_values(check, training, key, value, words):
    fault = only(check(changed(training, {key: value})))
    assert fault.key == key.replace(":", ": ") or fault.key.startswith(key.rpartition(":")[0].replace(":", ": "))
    assert all(word in str(fault) for word in words), str(fault)


@pytest.mark.parametrize(
    ("key", "value", "digits", "better"),
    [
        ("train:optim_g:lr", "1e-4", "0.0001", "1.0e-4"),
        ("train:total_iter", "5e5", "500000", "5.0e+5"),
        ("train:scheduler:milestones", ["1e5", 2], "100000", "1.0e+5"),
        ("train:pixel_opt:loss_weight", "1.5e2", "150", "1.5e+2"),
        ("network_g:img_range", "2e2", "200", "2.0e+2"),
    ],
)
def test_numbers_that_yaml_reads_as_text(check, training, key, value, digits, better):
    faults = check(changed(training, {key: value}))
    assert_fault(faults, key.replace(":", ": "), f"Write `{digits}`: ", f"(`{better}`)")


def test_a_name_may_look_like_a_number(check, training):
    assert check(changed(training, {"name": "1e5", "datasets:val:name": "1e5"})) == []


def test_loggers_need_their_packages(check, training, monkeypatch):
    found = importlib.util.find_spec
    there = {"wandb"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in there or found(name))
    options = changed(training, {"logger:wandb": {"project": "p"}})
    assert_fault(check(options), "logger: use_tb_logger", "wandb needs TensorBoard")
    options = changed(options, {"logger:use_tb_logger": True})
    assert check(options) == []
    missing = ("wandb", "tensorboard")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    faults = {fault.key: str(fault) for fault in check(options)}
    assert "Expected the package `wandb` for a project, but got none installed" in faults["logger: wandb: project"]
    assert "Expected the package `tensorboard` for `use_tb_logger: true`" in faults["logger: use_tb_logger"]


# --- types and their arguments ---


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("model_type", "SRModl", "SRModel"),
        ("network_g:type", "EDRS", "EDSR"),
        ("network_g:type", "SPANN", "SPAN"),
        ("datasets:train:type", "PairedImageDatset", "PairedImageDataset"),
        ("train:pixel_opt:type", "L1", "L1Loss"),
        ("train:optim_g:type", "adam", "Adam"),
        ("train:scheduler:type", "MultistepLR", "MultiStepLR"),
        ("val:metrics:psnr:type", "calculate_pnsr", "calculate_psnr"),
    ],
)
def test_unknown_types_are_suggested(check, training, key, value, meant):
    assert_fault(check(changed(training, {key: value})), key.replace(":", ": "), f"Did you mean `{meant}`?")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model_type", "zzz", ("Registered are", "name that at the top: `import: my_file.py`.")),
        ("network_g:type", "zzz", ("Registered are", "`import: my_file.py`")),
        ("train:optim_g:type", "zzz", ("This BasicSR knows `Adam`",)),
        ("train:scheduler:type", "zzz", ("It knows `MultiStepLR`",)),
    ],
)
def test_strange_types_list_what_there_is(check, training, key, value, words):
    assert_fault(check(changed(training, {key: value})), key.replace(":", ": "), *words)


def test_missing_arguments(check, training):
    assert_fault(
        check(changed(training, {"network_g:num_in_ch": REMOVED})), "network_g: num_in_ch", "EDSR has no default"
    )
    options = changed(training, {"val:metrics:psnr:crop_border": REMOVED})
    assert_fault(check(options), "val: metrics: psnr: crop_border", "no such key")
    options = changed(training, {"train:scheduler:milestones": REMOVED})
    assert_fault(check(options), "train: scheduler: milestones", "no such key")


def test_what_basicsr_takes_apart(check, training, testing):
    """SRModel's perceptual loss is a pair, and its test looks into `val:`."""
    fault = check(changed(training, {"train:perceptual_opt": {"type": "L1Loss"}}))
    assert_fault(fault, "train: perceptual_opt", "SRModel can use as perceptual", "`L1Loss`", "EfficientSRModel")
    assert_fault(check(changed(testing, {"val": None}), is_train=False), "val", "a section", "nothing (`~`)")
    assert check(changed(training, {"val": None})) == []


def test_no_loss_at_all(check, training):
    assert_fault(check(changed(training, {"train:pixel_opt": REMOVED})), "train: pixel_opt", "a loss", "got none")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_g:num_feat": 10**6}, "a network that fits into memory, but got weights of"),
        ({"network_g:num_block": 10**9}, "its error: more than 100,000 layers"),
        (
            {"network_g": {"type": "SPAN", "feature_channels": 10**6}},
            "a network that fits into memory, but got weights",
        ),
    ],
)
def test_a_network_without_end(check, training, changes, words):
    assert_fault(check(changed(training, changes)), "network_g", words)


def test_a_network_that_cannot_be_built(check, training):
    options = changed(training, {"scale": 5, "network_g:upscale": 5, "datasets": {"train": {"type": "x"}}})
    faults = {fault.key: str(fault) for fault in check(options)}
    assert "scale 5 is not supported" in faults["network_g"]


def test_cosine_periods_shorter_than_the_training(check, training):
    scheduler = {"type": "CosineAnnealingRestartLR", "periods": [5], "restart_weights": [1]}
    assert_fault(check(changed(training, {"train:scheduler": scheduler})), "train: scheduler: periods", "lengthen")


def test_metrics_that_need_ground_truth(check, testing, data):
    single = {"name": "one", "type": "SingleImageDataset", "dataroot_lq": str(data / "lq")}
    options = changed(testing, {"datasets:test_1": {**single, "io_backend": {"type": "disk"}}})
    assert_fault(check(options, is_train=False), "val: metrics: ssim", "`datasets: test_1` without it")
    assert check(changed(options, {"val:metrics": None}), is_train=False) == []
    assert check(changed(options, {"model_type": "EfficientSRModel"}), is_train=False) == []


def test_a_validation_that_could_score_nothing(check, training, data):
    single = {"name": "one", "type": "SingleImageDataset", "dataroot_lq": str(data / "lq")}
    single["io_backend"] = {"type": "disk"}
    options = changed(training, {"model_type": "EfficientSRModel", "datasets:val": single})
    assert_fault(check(options), "val: metrics: psnr", "`datasets: val` without it", "Add a set that has it")
    options["datasets"]["val_2"] = training["datasets"]["val"]
    assert check(options) == []


# --- everything at once ---


def test_all_faults_are_reported_at_once_with_their_lines(check, training, tmp_path):
    changes: dict[str, Any] = {
        "maual_seed": 0,
        "network_g:type": "EDRS",
        "datasets:train:gt_size": 31,
        "datasets:train:dataroot_gt": "nowhere",
        "train:pixel_opt:type": "L1Los",
        "train:optim_g:lr": "1e-4",
        "path:pretrain_network_g": "nowhere.pth",
        "num_gpu": 64,
    }
    with pytest.raises(DscsrError) as error:
        check_options(option_files.write_options(tmp_path / "bad.yml", changed(training, changes)), is_train=True)
    assert isinstance(error.value, OptionsError)
    assert {fault.key for fault in error.value.faults} >= {
        "maual_seed", "network_g: type", "datasets: train: gt_size", "datasets: train: dataroot_gt",
        "train: pixel_opt: type", "train: optim_g: lr", "num_gpu",
    }  # fmt: skip
    lines = (tmp_path / "bad.yml").read_text().splitlines()
    for fault in error.value.faults:
        assert str(fault) in str(error.value)
        assert fault.file.endswith("bad.yml")
        assert lines[fault.line - 1].split(":")[0].strip() == fault.key.split(": ")[-1]
    assert str(error.value).startswith(f"{len(error.value.faults)} faults in ")


def test_many_faults_are_counted_not_all_printed(check, training):
    faults = check({**training, **{f"zz{i}": i for i in range(40)}})
    assert len(faults) == 40
    assert "… and 10 more." in str(OptionsError(faults))


def test_nearest_prefers_swapped_letters():
    assert nearest("EDRS", ["EDVR", "EDSR"]) == "EDSR"
    assert nearest("zzz", ["EDVR"]) is None


def test_a_misspelt_key_of_dist_params(check):
    fault = check({"dist_params": {"backnd": "nccl", "port": 29500}})
    assert "dist_params: backnd" in str(fault)
    assert "Did you mean `backend`?" in str(fault)
