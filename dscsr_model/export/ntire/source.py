"""The text of a submission's file: that of a standalone network, with its own name and the network's arguments."""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Mapping
from typing import Any

from dscsr_arch.errors import DscsrError

PYTHON = (3, 9)
"""The version that the challenge runs."""

_WARM_UP = """
        # The challenge's script times the first image too: let a GPU load its kernels before that.
        if torch.cuda.is_available():
            with torch.no_grad():
                self.cuda()(torch.zeros(1, 3, 256, 256).cuda())
            self.cpu()"""
"""The end of the constructor."""


def rewrite(source: str, class_name: str, new_name: str, defaults: Mapping[str, Any], docstring: str) -> str:
    """Rename the class of a file, let it build without arguments and warm up, and tell in the docstring what it is.

    Args:
        source: Python in ASCII that begins with a docstring.
        class_name: The class.
        new_name: What it is called instead.
        defaults: New default values of its constructor's arguments, all of them: numbers, booleans, tuples of numbers.
        docstring: In place of the file's.

    Raises:
        DscsrError: The new name is taken in the file, or a value is no plain one.
    """
    check_free(source, class_name, new_name)
    tree = ast.parse(source)
    edits = [(_span(tree.body[0], source), f'"""{docstring}"""')]
    init = _constructor(tree, class_name)
    end = _span(init.body[-1], source)[1]
    edits.append(((end, end), _WARM_UP))
    for name, node in _defaults(init).items():
        edits.append((_span(node, source), _literal(name, defaults[name])))
    edits += [((start, start + len(class_name)), new_name) for start in _uses(source, class_name)]
    for (start, end), text in sorted(edits, reverse=True):
        source = source[:start] + text + source[end:]
    ast.parse(source, feature_version=PYTHON)
    return source


def check_free(source: str, class_name: str, new_name: str) -> None:
    """Raise `DscsrError` if a class cannot be called ``new_name`` in this file."""
    taken = {token.string for token in _tokens(source) if token.type == tokenize.NAME} - {class_name}
    if not (new_name.isascii() and new_name.isidentifier()) or keyword.iskeyword(new_name) or new_name in taken:
        why = "is in use in the network's file" if new_name in taken else "is none"
        raise DscsrError(
            f"Expected the name of a Python class, but got {new_name!r}, which {why}. "
            "Choose another --name: letters, digits and _, such as FastSPAN."
        )


def _constructor(tree: ast.Module, class_name: str) -> ast.FunctionDef:
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    return next(node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")


def _defaults(init: ast.FunctionDef) -> dict[str, ast.expr]:
    """The default of each argument of a constructor."""
    names = [argument.arg for argument in init.args.args][-len(init.args.defaults) :]
    return dict(zip(names, init.args.defaults, strict=True))


def _literal(name: str, value: Any) -> str:
    text = repr(value)
    try:
        ast.literal_eval(text)  # inf and nan are none, nor is anything that is not plain
    except (ValueError, SyntaxError) as error:
        raise DscsrError(f"Expected a number for `{name}` of the network, but got {text}. Check --set.") from error
    return text


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


def _uses(source: str, name: str) -> list[int]:
    starts = _line_starts(source)
    found = (token.start for token in _tokens(source) if token.type == tokenize.NAME and token.string == name)
    return [starts[line - 1] + column for line, column in found]


def _span(node: ast.AST, source: str) -> tuple[int, int]:
    starts = _line_starts(source)
    where: Any = node
    return starts[where.lineno - 1] + where.col_offset, starts[where.end_lineno - 1] + where.end_col_offset


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts
