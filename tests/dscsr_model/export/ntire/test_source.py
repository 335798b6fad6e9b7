"""The text of a submission's file."""

import ast
import math

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire.source import check_free, rewrite

SOURCE = '''"""A file
of two lines."""

import torch


class Part:
    """Used by Whole, which this comment does not rename."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Whole:
    def __init__(
        self,
        a: int = 3, b: float = 255.0,
        c: tuple = (0.5,
                    0.25),
    ) -> None:
        self.given = a, b, c  # not = 3
        self.part = Part()

    def again(self) -> "Whole":
        return Whole()
'''


def test_renames_fills_in_and_keeps_the_rest():
    text = rewrite(SOURCE, "Whole", "Mine", {"a": 7, "b": 1.0, "c": (0.1, 0.2, 0.3)}, "New.\n\nWords.")
    assert text.startswith('"""New.\n\nWords."""\n\nimport torch\n')
    namespace: dict = {}
    exec(text, namespace)
    assert namespace["Mine"]().given == (7, 1.0, (0.1, 0.2, 0.3))
    assert type(namespace["Mine"]().again()).__name__ == "Mine"
    assert namespace["Part"]().size == 1
    assert "which this comment does not rename" in text
    assert "# not = 3" in text


@pytest.mark.parametrize("name", ["Part", "torch", "size", "self", "int", "class", "a-b", "a.b", "9", "", "a\nb", "Ä"])
def test_refuses_names_that_are_taken_or_none(name):
    with pytest.raises(DscsrError, match=r"Expected the name of a Python class, but got .*Choose another --name"):
        check_free(SOURCE, "Whole", name)


@pytest.mark.parametrize("name", ["Whole", "Mine"])
def test_free_names_and_the_present_one_give_a_class(name):
    check_free(SOURCE, "Whole", name)
    namespace = {}
    exec(rewrite(SOURCE, "Whole", name, {"a": 7, "b": 1, "c": ()}, "x"), namespace)
    assert namespace[name].__name__ == name


@pytest.mark.parametrize("value", [math.inf, math.nan, object(), print])
def test_refuses_what_is_no_plain_value(value):
    with pytest.raises(DscsrError, match=r"Expected a number for `b` of the network, but got .*Check --set"):
        rewrite(SOURCE, "Whole", "Mine", {"a": 7, "b": value, "c": ()}, "x")


def test_text_in_a_value_stays_text():
    """Nothing that a file says becomes code."""
    calls = []
    for value in (1, "exit()"):
        text = rewrite(SOURCE, "Whole", "Mine", {"a": 1, "b": value, "c": ()}, "x")
        calls.append({ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)})
    assert calls[0] == calls[1]
