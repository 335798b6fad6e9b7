"""An option file, section by section, without datasets and the keys of losses that models read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from typing_extensions import Self

from dscsr_arch.errors import DscsrError
from dscsr_model.options import values as v
from dscsr_model.options.section import CSD, DISTILLING, OURS, QUANTIZING, SR, Section, TypedSection, option


class PathSection(Section):
    """`path:`: weights and states to start from."""

    plugins: ClassVar[bool] = True

    resume_state: v.Path | None = option("the .state file to continue from")
    ignore_resume_networks: v.Names | None = option("networks that keep their own weights when resuming")
    pretrain_network_g: v.Path | None = option("weights to start from: a file, or a name of `dscsr weights`", by=SR)
    param_key_g: v.Text | None = option(
        "which weights of the file: params, params_ema; `~`: unwrapped or, in models of ours, the better ones",
        "params",
        by=SR,
    )
    strict_load_g: v.Bool = option("every layer must fit", True, by=SR)


# --- train ---


class OptimSection(TypedSection):
    """`train: optim_g:`, with the arguments of the optimizer."""

    type: v.Text = option("optimizer class", needed="always")
    lr: v.Ratio = option("learning rate", needed="always")
    weight_decay: v.Number = option("decay of the weights towards 0")
    betas: v.Numbers = option("decay of Adam's two averages")


class SchedulerSection(TypedSection):
    """`train: scheduler:`, with the arguments of the schedule."""

    type: v.Text = option("schedule class", needed="always")
    milestones: v.Numbers = option("iterations at which the learning rate drops")
    gamma: v.Number = option("factor at each milestone")
    periods: v.Numbers = option("iterations of each cosine")
    restarts: v.Numbers = option("iterations at which the learning rate starts anew")
    restart_weights: v.Numbers = option("factor of the learning rate after each restart")
    eta_min: v.Number = option("where a cosine ends")


class LossSection(TypedSection):
    """`train: <name>_opt:`, with the arguments of the loss."""

    type: v.Text = option("loss class, for example L1Loss", needed="train")
    loss_weight: v.Number = option("factor of the loss")


class SWASection(Section):
    """`train: swa:`, stochastic weight averaging: in place of `ema_decay`, the plain mean of networks near the end."""

    start: v.Share = option("share of the training after which networks are averaged", 0.75)
    every: v.Iterations = option("iterations between two of them", 100)

    def begin(self, total_iter: int) -> int:
        """The iteration of the first one."""
        return max(1, round(self.start * total_iter))

    def networks(self, total_iter: int) -> int:
        """How many there will be."""
        return 1 + total_iter // self.every - self.begin(total_iter) // self.every


class QuantizeSection(Section):
    """`train: quantize:`: inputs and weights of the convolutions in few bits; what is trained are clips, too."""

    method: Literal["pact", "pams"] = option("what clips are learned from, as PACT or as PAMS", needed="always")
    bits: Literal[4, 8] = option("of inputs and weights", needed="always")
    full_precision: v.Patterns = option(
        "patterns of layers that stay as they are, beside those that read the image and the last one", ["*upsampl*"]
    )
    clip_decay: v.Factor = option("factor of the clips' squares in the loss: what makes PACT's clips smaller", 0)


class StageOptimSection(Section):
    """`train: stages: train: optim_g:`: what may change of an optimizer that goes on."""

    lr: v.Ratio = option("learning rate")
    weight_decay: v.Number = option("decay of the weights towards 0")
    betas: v.Numbers = option("decay of Adam's two averages")


class StageTrainSection(Section):
    """`train: stages: train:`: what differs from `train:`. Losses `<name>_opt:` are changed, brought, or `~`: off."""

    optim_g: StageOptimSection = option("the learning rate, `lr`, and with it the schedule begin anew")
    scheduler: v.AnySection = option("with `type` another schedule, counted from here; without, other arguments of it")
    warmup_iter: v.Warmup = option("the learning rate grows linearly for so many iterations of the stage")
    accumulate_steps: v.Count = option("parts in which a batch is processed, for the memory of one")


class StageSection(Section):
    """`train: stages:`, one of them."""

    until: v.Iterations = option("its last iteration; of the last stage `total_iter`, also by default")
    gt_size: v.Count = option("side of the training patches, in GT pixels; by default that of `datasets: train:`")
    batch_size_per_gpu: v.Count = option("samples per GPU and step; by default those of `datasets: train:`")
    train: StageTrainSection = option("what differs from `train:`")


class TrainSection(Section):
    """`train:`; models of ours take any number of losses `<name>_opt:`."""

    plugins: ClassVar[bool] = True

    total_iter: v.Iterations = option("length of the training in iterations", needed="train")
    max_seconds: v.Ratio | None = option(
        "seconds of steps after which it ends, if `total_iter` has not ended it; start, validation and saving do not "
        "count, those before a resume do (which is then not exact to the bit); schedules go by the share of the time",
        by=OURS,
    )
    stages: v.Stages | None = option(
        "stretches of the training with other patches, batches, losses, rates or schedules, one after the other",
        by=OURS,
        each="StageSection",
    )
    warmup_iter: v.Warmup = option("the learning rate grows linearly up to here; -1: no warm-up", -1)
    ema_decay: v.Decay = option(
        "decay of the averaged weights; 0: none, as by default in SRModel; in models of ours it follows by default the "
        "length of the training",
        by=SR,
    )
    swa: SWASection | None = option(
        "average networks of the last part of the training, in place of an average with `ema_decay`", by=OURS
    )
    quantize: QuantizeSection | None = option(
        "train the network quantized, by PACT or PAMS (docs/quantization.md)", by=QUANTIZING
    )
    optim_g: OptimSection = option("optimizer: type, lr and its arguments", by=SR, needed="train")
    scheduler: SchedulerSection = option("learning-rate schedule: type and its arguments", by=SR, needed="train")
    pixel_opt: LossSection | None = option("loss between output and GT: type and its arguments", by=SR)
    perceptual_opt: LossSection | None = option("loss between features of output and GT", by=SR)
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "numbers the network computes in; weights stay fp32", "fp32", by=OURS
    )
    channels_last: v.Bool = option("memory order that convolutions are often faster in", False, by=OURS)
    compile: v.Compile = option(
        "run the network through torch.compile; `reduce-overhead` replays CUDA graphs, for small networks and batches "
        "(on a GPU not measured yet: `make gpu`)",
        False,
        by=OURS,
    )
    accumulate_steps: v.Count = option("parts in which a batch is processed, for the memory of one", 1, by=OURS)
    grad_clip_norm: v.Ratio | None = option("longest gradient; a longer one is shortened to it", by=OURS)
    ema_warmup: v.Bool = option(
        "with `ema_decay`: the average begins close to the network, not to its random start", True, by=OURS
    )
    max_bad_steps: v.Count = option(
        "so many steps in a row without finite loss and gradients stop the run", 100, by=OURS
    )


# --- val ---


class MetricSection(TypedSection):
    """`val: metrics: <name>:`, with the arguments of the metric."""

    type: v.Text = option("metric function, for example calculate_psnr", needed="always")
    better: Literal["higher", "lower"] = option("which direction is better", "higher")
    crop_border: v.Natural = option("pixels left out on every side")
    test_y_channel: v.Bool = option("measure on the Y channel of YCbCr", False)
    input_order: Literal["HWC", "CHW"] = option("layout of the images; SRModel gives HWC", "HWC")


class ValSection(Section):
    """`val:`: validation and test."""

    plugins: ClassVar[bool] = True

    val_freq: v.Iterations = option("iterations between validations", needed="train")
    save_img: v.Bool = option("write the result images", False, needed="always")
    suffix: v.Text | None = option("ends the names of result images; `~` takes the experiment's name", by=SR)
    metrics: v.AnySection | None = option("name: {type, crop_border, …}, any number", by=SR, each="MetricSection")
    pbar: v.Bool = option("show a progress bar", True, by=SR)
    tile: v.Count | None = option("side of the tiles in LQ pixels; `~`: whole images", by=OURS)
    tile_overlap: v.Natural = option(
        "margin around a tile in LQ pixels; the network's receptive field or more", 32, by=OURS
    )
    self_ensemble: v.Bool = option("average over the eight orientations of each image", False, by=OURS)
    best_metric: v.Text | None = option("metric that chooses net_g_best.pth; the first one by default", by=OURS)
    widths: v.Numbers | None = option("widths to validate; by default all that are trained", by=CSD)


# --- logger, dist_params ---


class WandbSection(Section):
    """`logger: wandb:`: Weights & Biases."""

    project: v.Text | None = option("project name; `~` switches it off")
    resume_id: v.Text | None = option("run to continue")


class LoggerSection(Section):
    """`logger:`: how often to print and to save."""

    print_freq: v.Iterations = option("iterations between log lines", needed="train")
    save_checkpoint_freq: v.Iterations = option("iterations between checkpoints", needed="train")
    use_tb_logger: v.Bool = option("write TensorBoard files", needed="train")
    wandb: WandbSection | None = option("Weights & Biases: project and resume_id")
    keep_checkpoints: v.Count | None = option("how many numbered checkpoints to keep; `~`: all", by=OURS)


class DistSection(Section):
    """`dist_params:`: several machines."""

    backend: v.Text = option("of torch.distributed, for example nccl")
    port: v.Count = option("of the first process")


# --- what students learn from ---


class TeacherSection(Section):
    """`teacher:`: what is distilled."""

    network: v.Networks | None = option(
        "type and arguments, or a list of these, one for each of `weights`; left out, the weight file tells them",
        of="Network",
    )
    weights: v.Files = option("a file, or a name of `dscsr weights`; of a list, outputs are averaged", needed="always")
    param_key: v.Text | None = option("which weights of the file: params, params_ema; `~` takes the better ones")
    self_ensemble: v.Bool = option("average the teacher's output over the eight orientations", False)
    border: v.Natural = option("LQ pixels at each side of a patch in which the teacher's output is left out", 0)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if isinstance(self.network, list) and len(self.network) != len(self._files):
            expected = f"a section, or a list of {len(self._files)}, one for each of `weights`"
            raise DscsrError(expected, len(self.network), "Name as many, `~` where the file tells the network.")
        return self

    @property
    def _files(self) -> list[str]:
        return [self.weights] if isinstance(self.weights, str) else self.weights

    @property
    def teachers(self) -> list[tuple[str, Mapping[str, Any] | None]]:
        """Each file, and the section of its network, None where the file tells it."""
        sections = self.network if isinstance(self.network, list) else [self.network] * len(self._files)
        return list(zip(self._files, sections, strict=True))


class LoRASection(Section):
    """`network_g: lora:`: what is trained of a network that stays as it is."""

    layers: v.AnySection | None = option("patterns of layer names, each with [rank, alpha], or `~` to leave out")
    rank: Literal["auto"] | None = option("`auto`: where a layer allows less than the rank, take what it allows")
    dora: v.Bool = option("learn each output's magnitude apart from its direction (DoRA)", False)
    dropout: v.Decay = option("share of a layer's input that its update does not see in training", 0)
    weights: v.Path | None = option("adapters to start from, as lora_g_*.pth holds them")


# --- the whole file ---


class Options(Section):
    """An option file."""

    plugins: ClassVar[bool] = True

    name: v.Text = option("names the folder under experiments/ or results/", needed="always")
    model_type: v.Text = option("class that trains or tests, for example SRModel", needed="always")
    import_: v.Code | None = option("files or modules with networks, losses, … of your own", alias="import")
    scale: v.Count = option("factor between LQ and GT")
    num_gpu: v.GPUs = option("`auto`, or how many GPUs; 0 is the CPU", needed="always")
    manual_seed: v.Seed | None = option("seed of everything random; drawn when missing")
    datasets: v.AnySection = option(
        "train, val, val_2, test_1, … each with its own section", needed="always", each="Dataset"
    )
    network_g: v.AnySection = option(
        "the network: `type` and its constructor's arguments", by=SR, needed="always", of="Network"
    )
    find_unused_parameters: v.Bool = option("for several GPUs: some parameters get no gradient", False, by=SR)
    path: PathSection = option("pretrained weights and the state to resume", needed="always")
    teacher: TeacherSection = option("a trained network, or several, to learn from", by=DISTILLING)
    train: TrainSection = option("losses, optimizer, schedule, length", needed="train")
    val: ValSection | None = option("validation: how often, metrics, saving", needed="test")
    logger: LoggerSection = option("how often to print and to save", needed="train")
    dist_params: DistSection = option("for --launcher slurm: backend and port")
