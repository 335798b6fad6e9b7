"""Weights by name: those that come with dscsr, and public ones that the user has downloaded. We download nothing.

A shipped one is a file ``<name>.safetensors`` in this folder with its card ``<name>.md`` beside it: YAML between two
lines ``---``, then prose. Public ones are the rows of ``public.yml``. `find` makes a file of a name, at the doors of
the program: its command lines and option files. Inside, there are files only.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dscsr_arch.errors import DscsrError

SHIPPED = Path(__file__).parent
_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Card:
    """What is known of weights that have a name.

    Attributes:
        name: By which they are asked for.
        facts: The front matter of a card, or a row of the table; ``network``, ``scale``, ``parameters``, ``licence``
            and ``set5`` (``psnr``, ``ssim``) in both.
        text: The whole card, or nothing.
        shipped: Whether they come with dscsr.
    """

    name: str
    facts: Mapping[str, Any]
    text: str = ""
    shipped: bool = False

    @property
    def title(self) -> str:
        """Network and scale in words."""
        return f"{self.facts['network']} x{self.facts['scale']}"

    @property
    def place(self) -> Path:
        """Where the file is, or where a downloaded one is to be put."""
        if self.shipped:
            return SHIPPED / f"{self.name}.safetensors"
        return folder() / f"{self.name}{Path(self.facts['file']).suffix}"

    def file(self) -> Path | None:
        """The file, if it is there: under its name, or a public one under any, if its SHA-256 is known.

        Raises:
            DscsrError: The file of this name is not the one that was released.
        """
        if self.shipped:
            return self.place
        for file in (folder() / f"{self.name}{suffix}" for suffix in _SUFFIXES):
            if file.is_file():
                self._check(file)
                return file
        others = sorted(folder().iterdir()) if folder().is_dir() else []
        return next((file for file in others if file.is_file() and self._is_released(file)), None)

    def _is_released(self, file: Path) -> bool:
        known, size = self.facts.get("sha256"), self.facts.get("bytes")
        likely = file.suffix in _SUFFIXES and known is not None and size in (None, file.stat().st_size)
        return likely and sha256(file) == known

    def _check(self, file: Path) -> None:
        size, known = self.facts.get("bytes"), self.facts.get("sha256")
        words, got = f"`{self.name}` at {file} to be the file that was released", ""
        if size is not None and size != (its := file.stat().st_size):
            got = f"one of {its:,} bytes, not {size:,}"
        elif known is not None and known != (its_sum := sha256(file)):
            got = f"one of SHA-256 {its_sum}, not {known}"
        if got:
            remedy = f"Download it again from {self.facts['source']}. To use this file as it is, give its path."
            raise DscsrError(words, got, remedy)


def folder() -> Path:
    """Where downloaded weights are looked for."""
    own, data = os.environ.get("DSCSR_WEIGHTS"), os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(own or f"{data}/dscsr/weights"))  # not Path's, which fails where nobody is at home


@functools.cache
def shipped() -> dict[str, Card]:
    """The weights that come with dscsr, by name."""
    cards = {}
    for path in sorted(SHIPPED.glob("*.safetensors")):
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        cards[path.stem] = Card(path.stem, _read(text.split("---\n")[1]), text, shipped=True)
    return cards


@functools.cache
def public() -> dict[str, Card]:
    """The weights of others that are known, by name."""
    rows = _read((SHIPPED / "public.yml").read_text(encoding="utf-8"))
    return {name: Card(name, row) for name, row in rows.items()}


def known() -> dict[str, Card]:
    """All that have a name."""
    return {**shipped(), **public()}


def card(name: str) -> Card:
    """What is known of the weights of this name; `DscsrError` for another name."""
    if name not in known():
        raise _unknown(name, "the name of weights")
    return known()[name]


def named(given: str | os.PathLike[str]) -> Card | None:
    """What a user means who does not mean a file: existing ones always win."""
    return None if Path(given).expanduser().is_file() else known().get(os.fspath(given))


def find(given: str | os.PathLike[str]) -> Path:
    """The file that a path or a name means.

    Args:
        given: A path comes back as it is, ``~`` expanded, whether there is such a file or not. One word without a
            suffix can be a name, unless there is a file that is called so.

    Raises:
        DscsrError: There are no weights of this name, or public ones are not in `folder`, or not as they were released.
    """
    word, path = os.fspath(given), Path(given).expanduser()
    if meant := named(given):
        if (file := meant.file()) is None:
            words = f"the file of the public weights `{word}` at {meant.place}"
            remedy = f"Download it from {meant.facts['source']}; `dscsr weights {word}` says how."
            raise DscsrError(words, "none", remedy)
        return file
    is_word = path.name == word and (not path.suffix or path.stem in known())
    if is_word and not path.exists():
        raise _unknown(word, "a weight file, or a name of weights")
    return path


def of_scale(scale: int) -> Card:
    """The shipped weights that enlarge by ``scale``.

    Raises:
        DscsrError: There are none.
    """
    scales = {one.facts["scale"]: one for one in shipped().values()}
    if scale not in scales:
        words = f"a scale whose weights come with dscsr ({', '.join(map(str, sorted(scales))) or 'none do'})"
        raise DscsrError(words, scale, "Name other weights with -w; `dscsr weights` lists some.")
    return scales[scale]


def _unknown(word: str, expected: str) -> DscsrError:
    names = known()
    close = difflib.get_close_matches(Path(word).stem, names, n=1)
    remedy = f"Did you mean `{close[0]}`?" if close else f"Names are {_listed(names)}."
    return DscsrError(expected, f"`{word}`, which is neither" if "file" in expected else f"`{word}`", remedy)


def _read(text: str) -> Any:
    import yaml  # the command line imports this room before it knows its command

    return yaml.safe_load(text)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
