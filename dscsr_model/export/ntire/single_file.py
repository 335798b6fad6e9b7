"""A trained network as one file that needs torch alone: the sources of its own classes, its arguments, its weights."""

from __future__ import annotations

import ast
import inspect
import io
import keyword
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from dscsr_arch.architecture import architectures
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe
from dscsr_arch.quantized_conv import require_full_precision
from dscsr_model.export.ntire import folding

PYTHON = (3, 9)
"""The version that the challenge runs."""

_SUBMITTED = '''class {name}({network}):
    """``{network}`` with the arguments that fit its weights."""

    def __init__(self) -> None:
        super().__init__({arguments})
        # The challenge's script times the first image too: let a GPU load its kernels before that.
        if torch.cuda.is_available():
            with torch.no_grad():
                self.eval().cuda()(torch.zeros(1, 3, 256, 256).cuda())
            self.cpu()
'''
"""The class that is handed in."""


class SingleFile(NamedTuple):
    """What a file is made of."""

    network: str
    """Name of the architecture."""
    sources: tuple[Callable[..., Any], ...]
    """Its functions and classes, the network last."""
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    border: int = 0
    """Pixels of the input, from each side, in which the output may differ from the trained network's."""
    saved: tuple[int, int] = (0, 0)
    """Parameters that a fold saves, and operations for each pixel."""

    @property
    def data_range(self) -> float:
        """Largest value of its images: of networks of dscsr always 1."""
        return 1.0

    @property
    def describes(self) -> str:
        """What the module of the network says of it."""
        return inspect.cleandoc(sys.modules[self.sources[-1].__module__].__doc__ or "")

    def text(self, name: str, docstring: str) -> str:
        """The file, in which the network is called ``name`` and builds without arguments.

        Raises:
            DscsrError: The name is taken in the file, or an argument is no plain value.
        """
        pieces = [_needed(inspect.getsource(source)) for source in self.sources]
        body, network = "\n\n\n".join(pieces), self.sources[-1].__name__
        handed_in = submitted(name, network, self.arguments, body, may_be_called=network)
        head = f'"""{docstring}"""\n\nfrom __future__ import annotations\n\n{_head(self.sources, body)}'
        text = "\n\n\n".join([head, body, handed_in])
        ast.parse(text, feature_version=PYTHON)
        return text


def single_file(network: nn.Module, fold: str | None = None) -> SingleFile:
    """Find the single-file form of a network, which stays as it is.

    Args:
        network: One whose `Architecture` names sources, in any state of training.
        fold: Which layers to fold into each other: one of `folding.FOLDS`, or None.

    Returns:
        Its form with float32 weights.

    Raises:
        DscsrError: There is no single file for this network, or nothing to fold in it.
    """
    require_full_precision(network, "a single file")
    fused = deployable(network)
    name, arguments = describe(fused)
    sources = {each.name: each.single_file for each in architectures().values() if each.single_file}
    if name not in sources:
        raise DscsrError(
            f"a network that has a single-file form ({', '.join(sources)})",
            name,
            "Give its own file: --source FILE.py --class NAME.",
        )
    if arguments.pop("residual", False):
        remedy = "Give its own file: --source FILE.py --class NAME."
        raise DscsrError("a network that does not add the image to its output", "`residual: true`", remedy)
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    state = {
        key.replace(".eval_conv.", "."): tensor.detach().clone().contiguous()
        for key, tensor in fused.state_dict().items()
        if key != "no_norm"  # spandrel's marker, an argument of the file
    }
    if fold is None:
        return SingleFile(name, sources[name], arguments, state)
    folded, border = folding.fold(name, state, fold)
    parameters, kernels = (_size(state, dims) - _size(folded, dims) for dims in ((1, 4), (4,)))
    arguments["fold"] = fold
    return SingleFile(name, sources[name], arguments, folded, border, (parameters, kernels))


def _size(state: Mapping[str, Tensor], dims: tuple[int, ...]) -> int:
    """How many numbers there are in tensors of so many dimensions: 1 of biases, 4 of kernels."""
    return sum(tensor.numel() for tensor in state.values() if tensor.dim() in dims)


def submitted(name: str, network: str, arguments: Mapping[str, Any], body: str, may_be_called: str = "") -> str:
    """The class that is handed in, for the end of a file with ``body``.

    Raises:
        DscsrError: The name is in use in the file, other than as ``may_be_called``, or an argument is no plain value.
    """
    taken = (_names(body) | {"torch", "annotations"}) - {may_be_called}
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name in taken:
        got = f"{name!r}, which " + ("is in use in the network's file" if name in taken else "is none")
        remedy = "Choose another --name: letters, digits and _, such as FastSPAN."
        raise DscsrError("the name of a Python class", got, remedy)
    lines = "\n".join(f"            {key}={_literal(key, value)}," for key, value in arguments.items())
    return _SUBMITTED.format(name=name, network=network, arguments=lines and f"\n{lines}\n        ")


def _needed(source: str) -> str:
    """``source`` of a function or class without what only training needs.

    Of a class, ``__init__`` and ``forward`` stay, and what they use. Checks of arguments go: calls of functions that
    are named so, decorators that are calls (`constructor`), and what docstrings say of them.
    """
    (node,) = ast.parse(source).body
    statements = [each for each in ast.walk(node) if isinstance(each, ast.Expr)]
    drop: list[ast.stmt | ast.expr] = [
        each for each in statements if _called(each.value).lstrip("_").startswith("check")
    ]
    if isinstance(node, ast.ClassDef):
        methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
        values = {ast.unparse(each.targets[0]): each for each in node.body if isinstance(each, ast.Assign)}
        used = ["__init__", "forward"]
        for name in used:  # grows, by what those use
            attributes = [each for each in ast.walk(methods.get(name, ast.Pass())) if isinstance(each, ast.Attribute)]
            used += {each.attr for each in attributes} - set(used)
        drop += [each for name, each in {**methods, **values}.items() if name not in used]
        drop += [each for method in methods.values() for each in method.decorator_list if _called(each)]
    gone = {number for each in drop for number in range(each.lineno, (each.end_lineno or 0) + 1)}
    kept = "\n".join(line for number, line in enumerate(source.splitlines(), 1) if number not in gone)
    kept = re.sub(r"\n\n +Raises:\n(?: +\S.*\n)+(?= *\"\"\")", "\n", kept)
    return re.sub(r"\n{3,}", "\n\n", kept).strip()


def _called(value: ast.expr) -> str:
    """The name of the function that is called, if it is one."""
    called = value.func if isinstance(value, ast.Call) else None
    return called.id if isinstance(called, ast.Name) else ""


def _head(sources: tuple[Callable[..., Any], ...], body: str) -> str:
    """What ``body`` takes from the modules that it comes from: imports, but of their own package, and constants."""
    used, found, constants = _names(body), defaultdict[str, set[str]](set, {"import ": {"torch"}}), []
    for module in {sys.modules[source.__module__] for source in sources}:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                origin = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
                found[origin] |= {ast.unparse(each) for each in node.names if (each.asname or each.name) in used}
        values = {name: value for name, value in vars(module).items() if isinstance(value, int | float | tuple)}
        constants += [f"{name} = {value!r}" for name, value in values.items() if name in used]
    lines = [origin + ", ".join(sorted(names)) for origin, names in found.items() if names and "dscsr_" not in origin]
    lines.sort(key=lambda line: (line.startswith("from "), line))
    groups = [[line for line in lines if ("torch" in line) == of_torch] for of_torch in (False, True)]
    groups.append(list(dict.fromkeys(constants)))
    return "\n\n".join("\n".join(group) for group in groups if group)


def _names(source: str) -> set[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def _literal(name: str, value: Any) -> str:
    text = repr(value)
    try:
        ast.literal_eval(text)  # inf and nan are none, nor is anything that is not plain
    except (ValueError, SyntaxError) as error:
        raise DscsrError(f"a number for `{name}` of the network", text, "Check --set.") from error
    return text
