"""CSSR-Net: a teacher network whose first channels are its students, in one set of weights.

From "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation" (arXiv 2105.11683,
https://github.com/Booooooooooo/CSD).

Different from the original: any network whose width is a constructor argument is a backbone, as it is
(`channel_split`); several students at once; state dicts are those of the plain backbone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import conv_lora
from dscsr_arch.architecture import architectures
from dscsr_arch.channel_split import (
    check_split,
    scaled_arguments,
    split_forward,
    split_tensors,
    tensors,
)
from dscsr_arch.errors import ArgumentError
from dscsr_arch.foreign import WIDTH_ARGUMENTS, arguments_of_section, find_backbone

_PREFIX = "backbone."
STUDENTS = "students."
"""Before the names of the students that a fused CSSR-Net has beside its backbone."""


class CSSRNet(nn.Module):
    """A backbone that also runs at smaller widths, on its first channels.

    ``net(x, width=w)`` maps an image (B, C, H, W) as the backbone of width ``w`` does. ``net(x)`` in eval mode uses
    the smallest width; in training mode it returns the outputs of all widths, ``{1.0: …, 0.25: …}``, so that
    DistributedDataParallel sees teacher and students in one forward.

    State dicts have the backbone's own names: they load in the plain backbone, and its files load here, strictly.

    Args:
        backbone: A network section of an option file: ``{type: EDSR, num_feat: 256, …}``.
        widths: Widths of the students as parts of the backbone's, each in (0, 1).
        width_args: Names of the constructor arguments that are the backbone's width; None: for networks that
            are known, their `Architecture.width_arguments`.

    Raises:
        ArgumentError: The backbone does not exist or does not take its arguments; its width arguments are not known; it
            cannot be split; a width is out of range, or leaves no channel or a fraction of one.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        widths: Sequence[float] = (0.25,),
        width_args: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        kind, network, arguments = _read_backbone(backbone)
        self.widths = _check_widths(widths)
        names = _width_arguments(kind, arguments, width_args)
        self._kind, self._network = kind, network
        self._arguments = {width: scaled_arguments(arguments, names, width) for width in self.widths}
        for scaled in self._arguments.values():
            _check_heads(scaled, names)
        self._arguments[1.0] = arguments
        self.backbone = _build(network, arguments)
        self.students = nn.ModuleDict()  # filled by fuse() only: until then students have no weights of their own
        self._skeletons: dict[float, nn.Module] = {}  # not modules of this one: they hold shapes, no weights
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without a channel, which are refused below
            for width in self.widths:
                student = _build(network, self._arguments[width])
                check_split(self.backbone, student, width)
                self._skeletons[width] = student.to("meta")

    @property
    def size_multiple(self) -> int | None:
        """The backbone's, if it says one; see `size_requirements`."""
        return getattr(self.backbone, "size_multiple", None)

    def forward(self, x: Tensor, width: float | Sequence[float] | None = None) -> Any:
        """Super-resolve ``x`` at ``width``; at several, give a dictionary; without one, see the class."""
        if isinstance(width, Sequence):
            return {each: self._run(x, self._checked(each)) for each in width}
        if width is not None:
            return self._run(x, self._checked(width))
        if self.training:
            return {each: self._run(x, each) for each in (1.0, *self.widths)}
        return self._run(x, min(self.widths))

    def student(self, width: float) -> nn.Module:
        """A plain backbone of ``width`` with a copy of its weights, on their device, in eval mode if this one is."""
        width = self._checked(width)
        if width == 1.0:
            return copy.deepcopy(self.backbone)
        if self.students:
            return copy.deepcopy(self.students[width_key(width)])
        example = next(self.backbone.parameters())
        student = copy.deepcopy(self._skeletons[width]).to_empty(device=example.device).to(example.dtype)
        own = tensors(student.train(self.training))
        with torch.no_grad():
            for name, tensor in split_tensors(self.backbone, student).items():
                own[name].copy_(tensor)
        return student

    def section(self, width: float) -> dict[str, Any]:
        """The network section ``{type: …, …}``, defaults too, of the plain backbone at a ``width`` of this network."""
        return {"type": self._kind, **self._arguments[self._checked(width)]}

    @torch.no_grad()
    def redraw(self, width: float) -> None:
        """Begin anew at ``width``: the first channels get what the student's own constructor draws, in place.

        A slice of a wide network starts smaller than a plain network of its width, whose layers have fewer inputs.
        """
        if self.students or width not in self.widths:
            words = f"a width among {self.widths} of a network that is not fused"
            raise ArgumentError(words, width, "Redraw before `fuse()`.")
        own = tensors(drawn := _build(self._network, self._arguments[width]))
        for name, tensor in split_tensors(self.backbone, drawn).items():
            tensor.copy_(own[name])

    def fuse(self) -> CSSRNet:
        """Leave plain convolutions only, in place. Cannot be undone; a second call does nothing.

        Fused kernels of a student are no slices of its teacher's, so students then have weights of their own, which
        state dicts hold as ``students.<width>.*``. Backbones without anything to fuse stay as they are.
        """
        backbone_fuse = getattr(self.backbone, "fuse", None)
        if self.students or backbone_fuse is None:
            return self
        students = {width_key(width): self.student(width) for width in self.widths}
        names = [name for name, _ in self.backbone.named_parameters()]
        backbone_fuse()
        if names != [name for name, _ in self.backbone.named_parameters()]:
            self.students.update({key: student.fuse() for key, student in students.items()})  # type: ignore[operator]
        return self

    def train(self, mode: bool = True) -> CSSRNet:
        """Set training mode, of the students as well."""
        super().train(mode)
        for student in self._skeletons.values():
            student.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The plain backbone's state dict, and ``students.*`` once fused."""
        prefix_ = kwargs.get("prefix", "")
        state = super().state_dict(*args, **kwargs)
        start = prefix_ + _PREFIX
        for name in [name for name in state if name.startswith(start)]:
            state[prefix_ + name.removeprefix(start)] = state.pop(name)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the names of a plain backbone the place that the backbone has here."""
        own = self.backbone.state_dict().keys()  # a backbone may itself have names that begin with ours
        given = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
        for name, tensor in given.items():
            bare = name.removeprefix(prefix)
            placed = bare.startswith(_PREFIX) or (bool(self.students) and bare.startswith(STUDENTS))
            state_dict[name if placed and bare not in own else prefix + _PREFIX + bare] = tensor
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _run(self, x: Tensor, width: float) -> Any:
        if width == 1.0:
            return self.backbone(x)
        if self.students:
            return self.students[width_key(width)](x)
        return split_forward(self.backbone, self._skeletons[width], x)

    def _checked(self, width: float) -> float:
        if width not in (1.0, *self.widths):
            remedy = "Add it to `widths` of this network."
            raise ArgumentError(f"a width among {(1.0, *self.widths)}", repr(width), remedy)
        return float(width)


def width_key(width: float) -> str:
    """What follows `STUDENTS`: names of modules have no dots."""
    return f"{width:g}".replace(".", "_")


def _read_backbone(backbone: object) -> tuple[str, type[nn.Module], dict[str, Any]]:
    """Name, class and all arguments, defaults too, of an option file's network section."""
    if not isinstance(backbone, Mapping) or not isinstance(backbone.get("type"), str):
        words = "`backbone` to be a network section such as {type: EDSR, num_feat: 256}"
        raise ArgumentError(words, repr(backbone), "Write one.")
    network = find_backbone(backbone["type"])
    return backbone["type"].removesuffix("_dscsr"), network, arguments_of_section(backbone, network)


def _build(network: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        built = network(**arguments)
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        words = f"arguments that {network.__name__} takes as a backbone"
        raise ArgumentError(words, f"others: {error}", "Correct `backbone`.") from error
    if conv_lora.lora_layers(built):
        got = f"{network.__name__}: slices of low-rank factors are not the factors of a slice"
        raise ArgumentError("a backbone without ConvLoRA", got, "Split its base network.")
    return built


def _check_widths(widths: object) -> tuple[float, ...]:
    values = [widths] if isinstance(widths, int | float) else list(widths) if isinstance(widths, Sequence) else []
    numbers = all(isinstance(width, int | float) and 0 < width < 1 for width in values)
    if not values or not numbers or isinstance(widths, str) or len(set(values)) < len(values):
        words = "`widths` to be different numbers between 0 and 1, at least one"
        raise ArgumentError(words, repr(widths), "Write such as [0.25]; the teacher's 1.0 is always there.")
    return tuple(float(width) for width in values)


def _width_arguments(kind: str, arguments: Mapping[str, Any], given: str | Sequence[str] | None) -> tuple[str, ...]:
    if given is not None:
        return (given,) if isinstance(given, str) else tuple(given)
    ours = architectures().get(kind)
    names = WIDTH_ARGUMENTS.get(kind, ()) if ours is None else ours.width_arguments
    if not names:
        words = f"`width_args` for {kind}, since its width arguments are not known here"
        remedy = f"Name those of its arguments that are its channels; it has: {', '.join(map(str, arguments))}."
        raise ArgumentError(words, "none", remedy)
    return names


def _check_heads(arguments: Mapping[str, Any], names: Sequence[str]) -> None:
    """Attention splits its channels among heads, whose number stays."""
    heads = arguments.get("num_heads")
    counts = [heads] if isinstance(heads, int) else list(heads) if isinstance(heads, Sequence) else []
    for name in names:
        if odd := [count for count in counts if arguments[name] % count]:
            words = f"the student's `{name}` to be divisible by each of `num_heads`"
            got = f"{arguments[name]} and {odd[0]}: attention heads need equal shares"
            raise ArgumentError(words, got, "Choose another width or other `num_heads`.")
