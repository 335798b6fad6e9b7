"""A network of the user's own as a submission: its file as it is, with the class that is handed in at its end.

Nothing of the file is run here: what it imports, its classes and their arguments are read from its source.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_arch.weight_files import read_weight_file
from dscsr_model.export.ntire.single_file import PYTHON, submitted

DATA_RANGES = (1.0, 255.0)
"""What the challenge gives a network: RGB in [0, 1] or in [0, 255]."""

_CATCH_IMPORTS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


class OwnFile(NamedTuple):
    """What a submission is made of, as `single_file.SingleFile` is for networks of dscsr."""

    network: str
    """Name of the class."""
    path: Path
    source: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    data_range: float = 1.0
    border: int = 0

    @property
    def describes(self) -> str:
        """Where it comes from."""
        return f"{self.network} is the class of {self.path.name}; the rest of this file is that one."

    def text(self, name: str, docstring: str) -> str:
        """The file; see `single_file.SingleFile.text`."""
        said = "\n".join(f"# {line}".rstrip() for line in docstring.splitlines())
        handed_in = submitted(name, self.network, self.arguments, self.source)
        return f"{self.source.rstrip()}\n\n\n{said}\nimport torch  # noqa: E402\n\n\n{handed_in}"


def read(
    path: Path,
    class_name: str | None,
    weights: Path,
    arguments: dict[str, Any],
    param_key: str | None = None,
    data_range: float = 1.0,
) -> OwnFile:
    """Read a network's file and its weights.

    Args:
        path: The file.
        class_name: The network in it.
        weights: In any dialect that `read_weight_file` knows; the names in it are the network's own.
        arguments: Of the class, which is built without any but these.
        param_key: Where the file has its weights.
        data_range: One of `DATA_RANGES`.

    Raises:
        DscsrError: The file is none of Python 3.9, imports more than torch and the standard library, or has no such
            class, or that needs other arguments; the weights cannot be read.
    """
    source, tree = _parse(path)
    if imported := sorted(set(_imported(tree.body))):
        code = " BasicSR's registry is not needed here." if "basicsr" in imported else ""
        raise DscsrError(
            f"{path} to import torch and the standard library alone, as one file of the challenge",
            ", ".join(imported),
            f"Write what it uses of that into the file.{code}",
        )
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name is None or class_name not in classes:
        close = difflib.get_close_matches(class_name or "", classes, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"Classes in it are {', '.join(classes) or 'none'}."
        got = f"{class_name}, which is not in it" if class_name else "none (--class)"
        raise DscsrError(f"a class of {path}", got, remedy)
    _check_arguments(class_name, classes, arguments)
    read_from = read_weight_file(weights, param_key, as_named=True).weights
    state = {
        name: (each.float() if each.is_floating_point() else each).contiguous() for name, each in read_from.items()
    }
    return OwnFile(class_name, path, source, arguments, state, data_range)


def _parse(path: Path) -> tuple[str, ast.Module]:
    version = ".".join(map(str, PYTHON))
    try:
        source = path.read_text(encoding="utf-8-sig")
        tree = ast.parse(source, feature_version=PYTHON)
    except OSError as error:
        raise DscsrError(f"a file of Python code at {path}", error.strerror, "Check the path.") from error
    except (SyntaxError, ValueError) as error:  # ValueError: no UTF-8, or a NUL
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise DscsrError(f"code of Python {version} in {path}", f"{said}{where}", "Correct it.") from error
    if (node := next(_unions(tree), None)) is not None:
        got = f"`{ast.unparse(node)}` (line {node.lineno})"
        remedy = "Begin it with `from __future__ import annotations`."
        raise DscsrError(f"annotations of Python {version} in {path}", got, remedy)
    return source, tree


def _unions(tree: ast.Module) -> Iterator[ast.expr]:
    """Annotations such as ``int | None``, which are evaluated, and are an error before Python 3.10."""
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if any(alias.name == "annotations" for node in futures for alias in node.names):
        return
    for node in ast.walk(tree):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None and any(isinstance(each, ast.BitOr) for each in ast.walk(annotation)):
                yield annotation


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that are imported and that the challenge may not have.

    Not counted is what a file can do without: what stands under ``__name__ == "__main__"`` or ``TYPE_CHECKING``, or is
    tried and caught.
    """
    for node in body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
        else:
            modules = []
        for module in modules:
            top = module.partition(".")[0]
            if top not in {"torch", *sys.stdlib_module_names}:
                yield top or module
        if isinstance(node, ast.If) and any(word in ast.unparse(node.test) for word in ("__main__", "TYPE_CHECKING")):
            yield from _imported(node.orelse)
            continue
        tried = isinstance(node, ast.Try) and any(map(_catches_imports, node.handlers))
        for field in ("handlers", "orelse", "finalbody", *(() if tried else ("body",))):
            yield from _imported(getattr(node, field, []))


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    caught = (
        {"Exception"} if handler.type is None else {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
    )
    return bool(caught & _CATCH_IMPORTS)


def _check_arguments(class_name: str, classes: dict[str, ast.ClassDef], arguments: dict[str, Any]) -> None:
    """Raise `DscsrError` unless the class builds with these arguments, as far as its source tells."""
    builds = _constructor(class_name, classes)
    if builds is None:
        return
    ours, plain = builds.args, [*builds.args.posonlyargs, *builds.args.args][1:]
    needed = [each.arg for each in plain[: len(plain) - len(ours.defaults)]]
    needed += [each.arg for each, default in zip(ours.kwonlyargs, ours.kw_defaults, strict=True) if default is None]
    known = [each.arg for each in (*plain, *ours.kwonlyargs)]
    if missing := [name for name in needed if name not in arguments]:
        raise DscsrError(
            f"a class that builds without arguments, as the challenge does {class_name}()",
            f"one that needs {', '.join(missing)}",
            f"Say what they are: --set {' '.join(f'{name}=VALUE' for name in missing)}.",
        )
    if ours.kwarg is None and (strange := [name for name in arguments if name not in known]):
        close = difflib.get_close_matches(strange[0], known, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"It has {', '.join(known) or 'none'}."
        raise DscsrError(f"arguments of {class_name} in --set", strange[0], remedy)


def _constructor(class_name: str, classes: dict[str, ast.ClassDef]) -> ast.FunctionDef | None:
    """``__init__`` of a class or of the first base in the file that has one."""
    node = classes[class_name]
    own = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    if own:
        return own[-1]
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return next((found for base in bases if base != class_name and (found := _constructor(base, classes))), None)
