"""Every option that BasicSR's training and testing know, with its type and what it is for.

One line each. A later part adds its keys here: a new option of `SRModel`'s sections is one line in its table; options
that only one model type or dataset type knows go under that type's name in `MODEL_OPTIONS` or `DATASET_OPTIONS`.

A type that is in none of the lists belongs to another plugin or to the user. What only such a type knows is then not
rejected: BasicSR's own loops read the ``LOOP_*`` tables for every model, so these are checked always; the rest is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from dscsr_model.host.options_kinds import (
    BOOL,
    CODE,
    COMPILE,
    COUNT,
    DECAY,
    FILES,
    GPUS,
    ITERATIONS,
    NAMES,
    NATURAL,
    NUMBER,
    NUMBERS,
    PATH,
    RATIO,
    SECTION,
    SEED,
    TEMPLATE,
    TEXT,
    WARMUP,
    WORKERS,
    Option,
    one_of,
)

# --- read by BasicSR's train.py, test.py, options.py and data loader, whatever the model is ---

LOOP_TOP: dict[str, Option] = {
    "name": Option(TEXT, "names the folder under experiments/ or results/", required="always"),
    "model_type": Option(TEXT, "class that trains or tests, for example SRModel", required="always"),
    "import": Option(CODE, "files or modules with networks, losses, … of your own", null=True),
    "scale": Option(COUNT, "factor between LQ and GT"),
    "num_gpu": Option(GPUS, "`auto`, or how many GPUs; 0 is the CPU", required="always"),
    "manual_seed": Option(SEED, "seed of everything random; drawn when missing", null=True),
    "datasets": Option(SECTION, "train, val, val_2, test_1, … each with its own section", required="always"),
    "path": Option(SECTION, "pretrained weights and the state to resume", required="always"),
    "train": Option(SECTION, "losses, optimizer, schedule, length", required="train"),
    "val": Option(SECTION, "validation: how often, metrics, saving", required="test", null=True),
    "logger": Option(SECTION, "how often to print and to save", required="train"),
    "dist_params": Option(SECTION, "for --launcher slurm: backend and port"),
}
DIST_PARAMS: dict[str, Option] = {
    "backend": Option(TEXT, "of torch.distributed, for example nccl"),
    "port": Option(COUNT, "of the first process"),
}
LOOP_PATH: dict[str, Option] = {
    "resume_state": Option(PATH, "the .state file to continue from", null=True),
    "ignore_resume_networks": Option(NAMES, "networks that keep their own weights when resuming", null=True),
}
LOOP_TRAIN: dict[str, Option] = {
    "total_iter": Option(ITERATIONS, "length of the training in iterations", required="train"),
    "warmup_iter": Option(WARMUP, "the learning rate grows linearly up to here; -1: no warm-up"),
}
LOOP_VAL: dict[str, Option] = {
    "val_freq": Option(ITERATIONS, "iterations between validations", required="train"),
    "save_img": Option(BOOL, "write the result images", required="always"),
}
LOGGER: dict[str, Option] = {
    "print_freq": Option(ITERATIONS, "iterations between log lines", required="train"),
    "save_checkpoint_freq": Option(ITERATIONS, "iterations between checkpoints", required="train"),
    "use_tb_logger": Option(BOOL, "write TensorBoard files", required="train"),
    "wandb": Option(SECTION, "Weights & Biases: project and resume_id", null=True),
}
WANDB: dict[str, Option] = {
    "project": Option(TEXT, "project name; `~` switches it off", null=True),
    "resume_id": Option(TEXT, "run to continue", null=True),
}
LOOP_DATASET: dict[str, Option] = {
    "name": Option(TEXT, "name in logs and result folders", required="always"),
    "type": Option(TEXT, "dataset class, for example PairedImageDataset", required="always"),
    "batch_size_per_gpu": Option(COUNT, "samples per GPU and step", required="train"),
    "num_worker_per_gpu": Option(WORKERS, "reading processes per GPU; 0: the training process reads", required="train"),
    "dataset_enlarge_ratio": Option(RATIO, "how often an epoch repeats the data"),
    "prefetch_mode": Option(one_of("cpu", "cuda"), "where batches wait; `~` for none", null=True),
    "num_prefetch_queue": Option(COUNT, "batches that wait with `prefetch_mode: cpu`"),
    "pin_memory": Option(BOOL, "page-locked memory; needed by `prefetch_mode: cuda`"),
    "persistent_workers": Option(BOOL, "keep reading processes between epochs"),
    "use_shuffle": Option(BOOL, "in BasicSR's option files; BasicSR itself does not read it"),
}

# --- read by SRModel ---

MODEL_TOP: dict[str, Option] = {
    "network_g": Option(SECTION, "the network: `type` and its constructor's arguments", required="always"),
    "find_unused_parameters": Option(BOOL, "for several GPUs: some parameters get no gradient"),
}
MODEL_PATH: dict[str, Option] = {
    "pretrain_network_g": Option(PATH, "weights to start from", null=True),
    "param_key_g": Option(TEXT, "which weights of the file: params, params_ema, `~` for an unwrapped file", null=True),
    "strict_load_g": Option(BOOL, "every layer must fit"),
}
MODEL_TRAIN: dict[str, Option] = {
    "ema_decay": Option(DECAY, "decay of the averaged weights; 0: none"),
    "optim_g": Option(SECTION, "optimizer: type, lr and its arguments", required="train"),
    "scheduler": Option(SECTION, "learning-rate schedule: type and its arguments", required="train"),
    "pixel_opt": Option(SECTION, "loss between output and GT: type and its arguments", null=True),
    "perceptual_opt": Option(SECTION, "loss between features of output and GT", null=True),
}
MODEL_VAL: dict[str, Option] = {
    "suffix": Option(TEXT, "ends the names of result images; `~` takes the experiment's name", null=True),
    "metrics": Option(SECTION, "name: {type, crop_border, …}, any number", null=True),
    "pbar": Option(BOOL, "show a progress bar"),
}
OPTIM: dict[str, Option] = {
    "type": Option(TEXT, "optimizer class", required="always"),
    "lr": Option(RATIO, "learning rate", required="always"),
    "weight_decay": Option(NUMBER, "decay of the weights towards 0"),
    "betas": Option(NUMBERS, "decay of Adam's two averages"),
}
SCHEDULER: dict[str, Option] = {
    "type": Option(TEXT, "schedule class", required="always"),
    "milestones": Option(NUMBERS, "iterations at which the learning rate drops"),
    "gamma": Option(NUMBER, "factor at each milestone"),
    "periods": Option(NUMBERS, "iterations of each cosine"),
    "restarts": Option(NUMBERS, "iterations at which the learning rate starts anew"),
    "restart_weights": Option(NUMBERS, "factor of the learning rate after each restart"),
    "eta_min": Option(NUMBER, "where a cosine ends"),
}
LOSS: dict[str, Option] = {
    "type": Option(TEXT, "loss class, for example L1Loss", required="train"),
    "loss_weight": Option(NUMBER, "factor of the loss"),
}
METRIC: dict[str, Option] = {
    "type": Option(TEXT, "metric function, for example calculate_psnr", required="always"),
    "better": Option(one_of("higher", "lower"), "which direction is better"),
    "crop_border": Option(NATURAL, "pixels left out on every side"),
    "test_y_channel": Option(BOOL, "measure on the Y channel of YCbCr"),
    "input_order": Option(one_of("HWC", "CHW"), "layout of the images; SRModel gives HWC"),
}

# --- read by BasicSR's image datasets ---

_SINGLE: dict[str, Option] = {
    "dataroot_lq": Option(PATH, "folder or .lmdb of the low-quality images", required="always"),
    "io_backend": Option(SECTION, "type: disk or lmdb", required="always"),
    "meta_info_file": Option(PATH, "list of the images to use", null=True),
    "mean": Option(NUMBERS, "subtracted from the images", null=True),
    "std": Option(NUMBERS, "divides the images", null=True),
    "color": Option(one_of("y"), "`y`: only the Y channel", null=True),
}
_PAIRED: dict[str, Option] = {
    **_SINGLE,
    "dataroot_gt": Option(PATH, "folder or .lmdb of the ground truth", required="always"),
    "filename_tmpl": Option(TEMPLATE, "LQ's file name from GT's, like '{}x4'"),
    "gt_size": Option(COUNT, "side of the training patches, in GT pixels", required="train"),
    "use_hflip": Option(BOOL, "flip patches at random", required="train"),
    "use_rot": Option(BOOL, "rotate patches at random", required="train"),
}
IO_BACKEND: dict[str, Option] = {
    "type": Option(one_of("disk", "lmdb"), "how images are stored", required="always"),
}

# --- who is known ---

# What EfficientSRModel and its children know beyond SRModel, by section ("" is the top level).
EFFICIENT: dict[str, Mapping[str, Option]] = {
    "train": {
        "precision": Option(one_of("fp32", "bf16", "fp16"), "numbers the network computes in; weights stay fp32"),
        "channels_last": Option(BOOL, "memory order that convolutions are often faster in"),
        "compile": Option(COMPILE, "run the network through torch.compile"),
        "accumulate_steps": Option(COUNT, "parts in which a batch is processed, for the memory of one"),
        "grad_clip_norm": Option(RATIO, "longest gradient; a longer one is shortened to it", null=True),
        "ema_warmup": Option(BOOL, "the average begins close to the network, not to its random start"),
        "max_bad_steps": Option(COUNT, "so many steps in a row without finite loss and gradients stop the run"),
    },
    "val": {
        "tile": Option(COUNT, "side of the tiles in LQ pixels; `~`: whole images", null=True),
        "tile_overlap": Option(NATURAL, "margin around a tile in LQ pixels; the network's receptive field or more"),
        "self_ensemble": Option(BOOL, "average over the eight orientations of each image"),
        "best_metric": Option(TEXT, "metric that chooses net_g_best.pth; the first one by default", null=True),
    },
    "logger": {
        "keep_checkpoints": Option(COUNT, "how many numbered checkpoints to keep; `~`: all", null=True),
    },
}
_CSD_VAL = {"widths": Option(NUMBERS, "widths to validate; by default all that are trained", null=True)}
_CSD = {**EFFICIENT, "val": {**EFFICIENT["val"], **_CSD_VAL}}
_DISTILLING = {**EFFICIENT, "": {"teacher": Option(SECTION, "a trained network, or several, to learn from")}}
TEACHER: dict[str, Option] = {
    "network": Option(SECTION, "the teacher's type and arguments; left out, the weight file tells them", null=True),
    "weights": Option(FILES, "weight file, or a list: outputs are averaged", required="always"),
    "param_key": Option(TEXT, "which weights of the file: params, params_ema; `~` takes the averaged ones", null=True),
    "self_ensemble": Option(BOOL, "average the teacher's output over the eight orientations"),
    "border": Option(NATURAL, "LQ pixels at each side of a patch in which the teacher's output is left out"),
}
LORA: dict[str, Option] = {
    "layers": Option(SECTION, "patterns of layer names, each with [rank, alpha], or `~` to leave out", null=True),
    "rank": Option(one_of("auto"), "`auto`: where a layer allows less than the rank, take what it allows", null=True),
    "dropout": Option(DECAY, "share of a layer's input that its update does not see in training"),
    "weights": Option(PATH, "adapters to start from, as lora_g_*.pth holds them", null=True),
}

# Keys of a model type beyond SRModel's, by section ("" is the top level).
MODEL_OPTIONS: dict[str, Mapping[str, Mapping[str, Option]]] = {
    "SRModel": {},
    "SwinIRModel": {},
    "EfficientSRModel": EFFICIENT,
    "DistillationModel": _DISTILLING,
    "DSCLoRAModel": _DISTILLING,
    "CSDModel": _CSD,
}


def models_knowing(section: str, key: object) -> frozenset[str]:
    """Model types that know a key of a section ("" is the top level) beside SRModel's; none for any other key."""
    return frozenset(model for model, tables in MODEL_OPTIONS.items() if key in tables.get(section, {}))


# Models that take any number of losses, as sections `<name>_opt` of `train:`.
ANY_LOSSES = frozenset({"EfficientSRModel", "DistillationModel", "DSCLoRAModel", "CSDModel"})
# Models that make batches of uint8 float, and turn crops, themselves.
ON_DEVICE = ANY_LOSSES
# Models with a section `teacher:`, and with `target`, `layers` and `teacher_layers` in their losses.
DISTILLING = frozenset({"DistillationModel", "DSCLoRAModel"})
# Losses that may compare features and cost nothing to build.
FEATURE_LOSSES = frozenset({"SpatialAffinityLoss", "L1Loss", "MSELoss", "CharbonnierLoss"})
# Models that put `network_g: lora:` into the network.
LORA_MODELS = ANY_LOSSES - {"CSDModel"}
# Models whose network is a CSSRNet, with `output_of` and more in their losses.
CSD_MODELS = frozenset({"CSDModel"})
# BasicSR's other models: their networks, losses and metrics are looked up, their keys are their own affair.
OTHER_BASICSR_MODELS = frozenset({
    "EDVRModel", "ESRGANModel", "HiFaceGANModel", "RealESRGANModel", "RealESRNetModel", "SRGANModel", "StyleGAN2Model",
    "VideoBaseModel", "VideoGANModel", "VideoRecurrentGANModel", "VideoRecurrentModel",
})  # fmt: skip
# Keys of a dataset type beyond LOOP_DATASET's. Types that are not here are checked for their dataroots only.
DATASET_OPTIONS: dict[str, Mapping[str, Option]] = {
    "PairedImageDataset": _PAIRED,
    "SingleImageDataset": _SINGLE,
    "PairedCropDataset": {
        **{name: option for name, option in _PAIRED.items() if name not in ("mean", "std")},
        "color": Option(one_of("rgb", "gray"), "`gray`: one channel, 0 to 255; by default what LMDBs hold", null=True),
        "output": Option(one_of("float32", "uint8"), "float32: what BasicSR's dataset gives; uint8: less to move"),
        "augment": Option(one_of("cpu", "device"), "device: EfficientSRModel turns the crops where it trains"),
        "repeat_crops": Option(COUNT, "crops taken of an image that was read"),
        "cache": Option(one_of("ram"), "`ram` keeps all images in memory", null=True),
    },
}
# BasicSR's datasets of something else than LQ and GT images, which models like SRModel take.
_FILMS = ("REDSDataset", "REDSRecurrentDataset", "Vimeo90KDataset", "Vimeo90KRecurrentDataset", "VideoTestDataset",
          "VideoTestVimeo90KDataset", "VideoTestDUFDataset", "VideoRecurrentTestDataset")  # fmt: skip
NOT_IMAGES = {
    "FFHQDataset": "ground truth alone",
    "RealESRGANDataset": "ground truth and kernels, from which RealESRNetModel makes `lq`",
    **dict.fromkeys(_FILMS, "sequences of images"),
}
# BasicSR's own datasets decode every LMDB entry and open an LMDB for themselves; ours do neither.
STOCK_DATASETS = frozenset({"PairedImageDataset", "SingleImageDataset"})
# Networks that take one image and give one: cheap to build for a check, and their `scale` is the image's.
IMAGE_NETWORKS = frozenset({
    "CARN", "CARN_dscsr", "CSSRNet", "CSSRNet_dscsr", "DSCLoRA", "DSCLoRA_dscsr", "ECBSR", "EDSR",
    "MSRResNet", "RCAN", "RIDNet", "RRDBNet", "SPAN", "SPAN_dscsr", "SRVGGNetCompact", "SwinIR",
})  # fmt: skip
