"""Sections of an option file, without datasets: what reads them, from BasicSR's loop up to the model that knows most.

``Loop…`` is what BasicSR's train.py, test.py and options.py read whatever the model is; ``SR…`` what SRModel reads
beside it; ``Efficient…``, ``CSD…`` and so on what models of ours read beside that.
"""

from __future__ import annotations

from typing import Literal

from dscsr_model.options.section import CLOSED, OPEN, Section, option
from dscsr_model.options.values import (
    AnySection,
    Bool,
    Compile,
    Count,
    Decay,
    Files,
    Iterations,
    Names,
    Natural,
    Number,
    Numbers,
    Path,
    Ratio,
    Text,
    Warmup,
)

# --- path ---


class LoopPath(Section):
    """`path:`, as BasicSR's loop reads it."""

    model_config = OPEN

    resume_state: Path | None = option("the .state file to continue from")
    ignore_resume_networks: Names | None = option("networks that keep their own weights when resuming")


class PathSection(LoopPath):
    """`path:`, as SRModel reads it."""

    model_config = CLOSED

    pretrain_network_g: Path | None = option("weights to start from")
    param_key_g: Text | None = option(
        "which weights of the file: params, params_ema, `~` for an unwrapped file", "params"
    )
    strict_load_g: Bool = option("every layer must fit", True)


# --- train ---


class OptimSection(Section):
    """`train: optim_g:`, with the arguments of the optimizer."""

    model_config = OPEN

    type: Text = option("optimizer class", needed="always")
    lr: Ratio = option("learning rate", needed="always")
    weight_decay: Number = option("decay of the weights towards 0")
    betas: Numbers = option("decay of Adam's two averages")


class SchedulerSection(Section):
    """`train: scheduler:`, with the arguments of the schedule."""

    model_config = OPEN

    type: Text = option("schedule class", needed="always")
    milestones: Numbers = option("iterations at which the learning rate drops")
    gamma: Number = option("factor at each milestone")
    periods: Numbers = option("iterations of each cosine")
    restarts: Numbers = option("iterations at which the learning rate starts anew")
    restart_weights: Numbers = option("factor of the learning rate after each restart")
    eta_min: Number = option("where a cosine ends")


class LossSection(Section):
    """`train: <name>_opt:`, with the arguments of the loss."""

    model_config = OPEN

    type: Text = option("loss class, for example L1Loss", needed="train")
    loss_weight: Number = option("factor of the loss")


class LoopTrain(Section):
    """`train:`, as BasicSR's loop reads it."""

    model_config = OPEN

    total_iter: Iterations = option("length of the training in iterations", needed="train")
    warmup_iter: Warmup = option("the learning rate grows linearly up to here; -1: no warm-up", -1)


class SRTrain(LoopTrain):
    """`train:` of SRModel."""

    model_config = CLOSED

    ema_decay: Decay = option("decay of the averaged weights; 0: none", 0)
    optim_g: OptimSection = option("optimizer: type, lr and its arguments", needed="train")
    scheduler: SchedulerSection = option("learning-rate schedule: type and its arguments", needed="train")
    pixel_opt: LossSection | None = option("loss between output and GT: type and its arguments")
    perceptual_opt: LossSection | None = option("loss between features of output and GT")


class TrainSection(SRTrain):
    """`train:` of our models, with any number of losses `<name>_opt:`."""

    precision: Literal["fp32", "bf16", "fp16"] = option("numbers the network computes in; weights stay fp32", "fp32")
    channels_last: Bool = option("memory order that convolutions are often faster in", False)
    compile: Compile = option("run the network through torch.compile", False)
    accumulate_steps: Count = option("parts in which a batch is processed, for the memory of one", 1)
    grad_clip_norm: Ratio | None = option("longest gradient; a longer one is shortened to it")
    ema_warmup: Bool = option("the average begins close to the network, not to its random start", True)
    max_bad_steps: Count = option("so many steps in a row without finite loss and gradients stop the run", 100)


# --- val ---


class MetricSection(Section):
    """`val: metrics: <name>:`, with the arguments of the metric."""

    model_config = OPEN

    type: Text = option("metric function, for example calculate_psnr", needed="always")
    better: Literal["higher", "lower"] = option("which direction is better", "higher")
    crop_border: Natural = option("pixels left out on every side")
    test_y_channel: Bool = option("measure on the Y channel of YCbCr", False)
    input_order: Literal["HWC", "CHW"] = option("layout of the images; SRModel gives HWC", "HWC")


class LoopVal(Section):
    """`val:`, as BasicSR's loop reads it."""

    model_config = OPEN

    val_freq: Iterations = option("iterations between validations", needed="train")
    save_img: Bool = option("write the result images", False, needed="always")


class SRVal(LoopVal):
    """`val:` of SRModel."""

    model_config = CLOSED

    suffix: Text | None = option("ends the names of result images; `~` takes the experiment's name")
    metrics: AnySection | None = option(
        "name: {type, crop_border, …}, any number",
        each="MetricSection",
    )
    pbar: Bool = option("show a progress bar", True)


class ValSection(SRVal):
    """`val:` of our models."""

    tile: Count | None = option("side of the tiles in LQ pixels; `~`: whole images")
    tile_overlap: Natural = option("margin around a tile in LQ pixels; the network's receptive field or more", 32)
    self_ensemble: Bool = option("average over the eight orientations of each image", False)
    best_metric: Text | None = option("metric that chooses net_g_best.pth; the first one by default")


class CSDVal(ValSection):
    """`val:` of CSDModel."""

    widths: Numbers | None = option("widths to validate; by default all that are trained")


# --- logger, dist_params ---


class WandbSection(Section):
    """`logger: wandb:`: Weights & Biases."""

    project: Text | None = option("project name; `~` switches it off")
    resume_id: Text | None = option("run to continue")


class LoopLogger(Section):
    """`logger:`, as BasicSR's loop reads it."""

    print_freq: Iterations = option("iterations between log lines", needed="train")
    save_checkpoint_freq: Iterations = option("iterations between checkpoints", needed="train")
    use_tb_logger: Bool = option("write TensorBoard files", needed="train")
    wandb: WandbSection | None = option("Weights & Biases: project and resume_id")


class LoggerSection(LoopLogger):
    """`logger:` of our models."""

    keep_checkpoints: Count | None = option("how many numbered checkpoints to keep; `~`: all")


class DistSection(Section):
    """`dist_params:`: several machines."""

    backend: Text = option("of torch.distributed, for example nccl")
    port: Count = option("of the first process")


# --- what students learn from ---


class TeacherSection(Section):
    """`teacher:`: what is distilled."""

    network: AnySection | None = option(
        "the teacher's type and arguments; left out, the weight file tells them", of="Network"
    )
    weights: Files = option("weight file, or a list: outputs are averaged", needed="always")
    param_key: Text | None = option("which weights of the file: params, params_ema; `~` takes the averaged ones")
    self_ensemble: Bool = option("average the teacher's output over the eight orientations", False)
    border: Natural = option("LQ pixels at each side of a patch in which the teacher's output is left out", 0)


class LoRASection(Section):
    """`network_g: lora:`: what is trained of a network that stays as it is."""

    layers: AnySection | None = option("patterns of layer names, each with [rank, alpha], or `~` to leave out")
    rank: Literal["auto"] | None = option("`auto`: where a layer allows less than the rank, take what it allows")
    dropout: Decay = option("share of a layer's input that its update does not see in training", 0)
    weights: Path | None = option("adapters to start from, as lora_g_*.pth holds them")
