"""Reads an option file the way BasicSR does, but safely, and tells where in it something stands.

BasicSR loads YAML with a loader that runs ``!!python`` tags, keeps the last of two equal keys without a word, and
stops at the first surprise with a traceback. Here tags are refused, equal keys are reported, and every key's line is
remembered for later messages. ``--force_yml`` is applied by the same rules as in ``basicsr.utils.options``.
"""

from __future__ import annotations

import ast
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dscsr_model.host.options.faults import Key, Report, did_you_mean
from dscsr_model.options.section import listed

_MOST_VALUES = 100_000

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """A safe loader with BasicSR's one change: mappings become ordered pairs (and so `<<` merges are unknown)."""


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: OrderedDict(loader.construct_pairs(node, deep=True)),
)


def read_options(path: str) -> tuple[OrderedDict[Any, Any], Report]:
    """Read the file into ordered dictionaries.

    Args:
        path: The option file.

    Returns:
        The options, and a report that knows the lines of all keys and already holds repeated keys.

    Raises:
        OptionsError: When there is no such file or it is not a YAML mapping; nothing more can be said then.
    """
    report = Report(path)
    text = _text(path, report)
    options = None
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _stop_at_a_bomb(node, report)
            options = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
        _note_lines(node, (), report)
    except yaml.YAMLError as exc:
        _stop_at_yaml_fault(exc, report)
    except (ValueError, TypeError, RecursionError) as exc:
        report.stop("values that YAML can read", f"one that it cannot ({exc})", "Correct or quote it.")
    if not isinstance(options, OrderedDict):
        got = "an empty file" if options is None else f"only {str(options)[:60]!r}"
        report.stop("`key: value` lines, as in BasicSR's option files", got, "Is this the right file?")
    return options, report


def _stop_at_a_bomb(node: yaml.Node | None, report: Report) -> None:
    """A few lines of aliases of aliases can stand for more values than any memory holds."""
    sizes: dict[int, float] = {}

    def size(node: Any) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # while its parts are counted: of a node inside itself it stays so
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            sizes[id(node)] = 1 + sum(sum(map(size, part)) if isinstance(part, tuple) else size(part) for part in parts)
        return sizes[id(node)]

    if node is not None and _MOST_VALUES < size(node) < math.inf:  # what is inside itself, the loader refuses
        got = "aliases (`*name`) that stand for more of them"
        report.stop(f"at most {_MOST_VALUES:,} values", got, "Write the values out.")


def _text(path: str, report: Report) -> str:
    file = Path(path)
    if not file.is_file():
        got = "a folder" if file.is_dir() else "no such file"
        report.stop("an option file", got, _near_files(file))
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        got = f"byte 0x{exc.object[exc.start]:02x} in line {line}"
        report.stop("a text file in UTF-8", got, "Save it as UTF-8 in your editor.")
    except OSError as exc:
        report.stop("a readable file", f"{exc.strerror}", "Check its permissions.")


def _near_files(file: Path) -> str:
    folder = file if file.is_dir() else file.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either; the working directory is {Path.cwd()}."
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".yml", ".yaml"))
    remedy = did_you_mean(file.name, names)
    if remedy:
        return remedy
    if names:
        return f"{'The working directory' if folder == Path() else folder} holds {listed(names)}."
    return f"The working directory is {Path.cwd()}."


def _stop_at_yaml_fault(exc: yaml.YAMLError, report: Report) -> NoReturn:
    mark = getattr(exc, "problem_mark", None)
    problem = str(getattr(exc, "problem", None) or exc).splitlines()[0]
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "could not determine a constructor for the tag" in problem:
        tag = problem.split("'")[1].replace("tag:yaml.org,2002:", "!!")
        if tag == "!!merge":
            remedy = "BasicSR's reader does not know the merge key `<<`: write the merged keys out."
        else:
            remedy = f"Tags that build Python objects are never run. Write the value without `{tag}`."
        report.stop("plain YAML values", f"{tag}{place}", remedy)
    tabs = "\\t" in problem or "tab" in problem.split()
    remedy = "Indent with spaces, never with tabs." if tabs else "Look at that line and the one above it."
    report.stop("YAML", f"an error{place}: {problem}", remedy)


def _note_lines(node: yaml.Node | None, key: Key, report: Report) -> None:
    """Remember the line of every key, and note keys that stand twice in one section (the last one wins)."""
    lines = report.lines
    for number, item in enumerate(node.value if isinstance(node, yaml.SequenceNode) else (), start=1):
        below = (*key, str(number))
        lines[below] = item.start_mark.line + 1
        _note_lines(item, below, report)
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        below = (*key, str(getattr(key_node, "value", "?")))
        line = key_node.start_mark.line + 1
        if below in lines:
            got = f"it again in line {line}, after line {lines[below]}"
            report.add_note(below, line, "every key once", got, "Remove one; the last would win silently.")
            for inside in [known for known in lines if known[: len(below)] == below]:
                del lines[inside]  # the section that wins starts anew
        lines[below] = line
        _note_lines(value_node, below, report)


def apply_force_yml(options: OrderedDict[Any, Any], entries: Sequence[str], report: Report) -> None:
    """Apply ``--force_yml`` entries (``train:ema_decay=0.999``) in place, as BasicSR's ``parse_options`` does.

    Args:
        options: The options read from the file; changed in place.
        entries: What followed ``--force_yml``.
        report: Malformed entries are recorded here and skipped.
    """
    for entry in entries:
        where = (f"--force_yml {entry}",)
        if entry.count("=") != 1:
            got = f"{entry.count('=')} equal signs"
            report.add(where, "`key:subkey=value`", got, "Write for example `train:total_iter=1000`, without spaces.")
            continue
        names, value = (part.strip() for part in entry.split("="))
        *parents, last = names.split(":")
        section: Any = options
        for depth, name in enumerate(parents):
            if not isinstance(section, dict) or not isinstance(section.get(name), dict):
                known = [key for key, below in section.items() if isinstance(below, dict)]
                got = f"`{': '.join(parents[: depth + 1])}`, which is no section of it"
                remedy = did_you_mean(name, known, "--force_yml cannot make new sections: write it into the file.")
                report.add(where, "a section of the option file", got, remedy)
                break
            section = section[name]
        else:
            try:
                section[last] = _forced_value(value)
            except (ValueError, SyntaxError):
                remedy = "Write text as it is, numbers as 0.5 or !!float1e-4, lists as [1, 2]."
                report.add(where, "a value", f"{value!r}, which cannot be read", remedy)


def _forced_value(value: str) -> Any:
    from basicsr.utils.options import _postprocess_yml_value

    if value.startswith("["):
        return ast.literal_eval(value)  # BasicSR calls eval(); a list of literals is all that is ever meant
    return _postprocess_yml_value(value)
