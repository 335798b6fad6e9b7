"""What a kit says in words: the branch for the challenge's script, the README, the file's own docstring."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from dscsr_arch.metadata import Metadata, in_words
from dscsr_model.export.ntire.psnr import THRESHOLD
from dscsr_model.export.ntire.self_check import TOLERANCE, Figures
from dscsr_model.export.ntire.single_file import SingleFile
from dscsr_model.profiling.score import BASELINES, score

_VALIDATION = "DIV2K_LSDIR_valid"
"""In the name of the folder of the challenge's images, as the challenge gives them out."""


class Quality(NamedTuple):
    """What ``--data`` gave."""

    psnr: float
    images: int
    folder: str


def docstring(team: int, name: str, form: SingleFile) -> str:
    """The first lines of the submission's file."""
    return (
        f"{name}, the network of team {team:02} for the NTIRE efficient super-resolution challenge.\n\n"
        f"{form.describes}\n\n"
        f"``{name}()`` fits model_zoo/team{team:02}_{name}.pth and takes RGB in [0, 1] (data_range 1.0).\n"
        f"Written by dscsr {dscsr_version()}.\n"
    )


def branch(team: int, name: str) -> str:
    """Lines for ``select_model`` of the challenge's test_demo.py, indented as they stand there."""
    stem = f"team{team:02}_{name}"
    lines = (
        f"elif model_id == {team}:",
        f"    from models.{stem} import {name}",
        f'    name, data_range = f"{{model_id:02}}_{name}", 1.0',
        f"    model_path = os.path.join('model_zoo', '{stem}.pth')",
        f"    model = {name}()",
        "    model.load_state_dict(torch.load(model_path), strict=True)",
    )
    return "".join(f"    {line}\n" for line in lines)


def table(form: SingleFile, figures: Figures, quality: Quality | None) -> list[tuple[str, str]]:
    """The figures of a kit, as rows of what and how much."""
    rows = [
        ("Network", describe(form)),
        ("Parameters", f"{figures.parameters / 1e6:.3f} M ({figures.parameters:,})"),
        ("FLOPs at 256x256", f"{figures.flops / 1e9:.2f} G"),
        ("Activations at 256x256", f"{figures.activations / 1e6:.2f} M"),
        ("Convolutions", str(figures.convolutions)),
    ]
    if figures.runtime_ms is not None and figures.baseline_ms is not None:
        base = BASELINES[2026]
        value = score(figures.runtime_ms, figures.flops, figures.parameters, 2026, baseline_ms=figures.baseline_ms)
        rows += [
            ("Runtime at 256x256, here", f"{figures.runtime_ms:.1f} ms (median of {figures.runs}; {figures.machine})"),
            (f"Runtime of {base.name}, here", f"{figures.baseline_ms:.1f} ms (in turns with it)"),
            ("Score of 2026 with these times", f"{value:.2f} ({base.name}: {math.e**2:.2f}; the lower, the better)"),
        ]
    if quality is not None:
        text = f"{quality.psnr:.3f} dB, mean of {quality.images} images in {quality.folder}"
        if _VALIDATION in quality.folder:  # of other images the threshold says nothing
            verdict = "at least" if quality.psnr >= THRESHOLD else "BELOW"
            text += f"; {verdict} the {THRESHOLD:.2f} dB that the challenge asks for"
        rows.append(("PSNR (RGB, 8 bits, border 4)", text))
    return rows


def describe(form: SingleFile) -> str:
    """The network in a few words."""
    blocks = f", {form.arguments['num_block']} blocks" if "num_block" in form.arguments else ""
    fold = form.arguments.get("fold")
    folds = ", conv_2 folded into conv_cat" if fold else ""
    folds += ", conv_1 folded into block_1" if fold == "all" else ""
    return f"{in_words(Metadata(form.network, form.arguments))}{blocks}{folds}"


def readme(team: int, name: str, form: SingleFile, figures: Figures, quality: Quality | None) -> str:
    """The kit's README.md."""
    stem = f"team{team:02}_{name}"
    rows = "\n".join(f"| {what} | {value} |" for what, value in table(form, figures, quality))
    sizes = ", ".join(f"{height}x{width}" for height, width in figures.sizes)
    border = _BORDER.format(border=form.border, inside=figures.inside, at=figures.at_border) if form.border else ""
    return _README.format(
        team=team,
        name=name,
        stem=stem,
        rows=rows,
        branch=branch(team, name).rstrip(),
        python=figures.python,
        torch=figures.torch,
        sizes=sizes,
        inside=figures.inside,
        tolerance=TOLERANCE,
        border=border,
        threshold=THRESHOLD,
        version=dscsr_version(),
    )


def checked(form: SingleFile, figures: Figures) -> str:
    """One line about the self-check."""
    where = f" ({figures.at_border:.1e} at the border)" if form.border else ""
    return (
        f"Python {figures.python}, torch {figures.torch}: differs from the trained network by at most "
        f"{figures.inside:.1e}{where}"
    )


def dscsr_version() -> str:
    """Of the package that writes the kit."""
    try:
        return version("dscsr")
    except PackageNotFoundError:  # run from a checkout
        return "(not installed)"


_BORDER = """
`conv_1` is folded into `block_1`, which changes the image near its border: within {border} pixels of the input from
each side, by up to {at:.2g} for the check's random images, and by {inside:.1e} inside. `--data` says what that costs:
compare the PSNR with and without `--fold all`.
"""

_README = """# {name}, team {team:02}

A submission to the NTIRE efficient super-resolution challenge, written by dscsr {version}.

| | |
|---|---|
{rows}

FLOPs are multiplications with an addition each, of convolutions, as fvcore counts them. Runtime on another machine than
the challenge's says little; the comparison with the baseline on the same machine says more. The challenge asks for
{threshold:.2f} dB on its own images, DIV2K_LSDIR_valid; PSNR on others cannot be compared with that.

The challenge's script times the first image too. So the constructor, where there is a GPU, sends one image of
256x256 through it, as the top teams' do, and leaves the network on the CPU.

## Hand it in

1. Copy `models/{stem}.py` and `model_zoo/{stem}.pth` into the folders of these names of the challenge's
   repository, https://github.com/Amazingren/NTIRE2026_ESR for 2026.
2. Look whether the number is free: no branch of `select_model` in its `test_demo.py` may have `model_id == {team}` yet.
   An earlier one would run in place of yours.
3. Put these lines, which are in `test_demo_branch.txt` too, into `select_model`, before `else:`:

```python
{branch}
```

4. Try it: `python test_demo.py --data_dir DATA --save_dir RESULTS --model_id {team}`

## Checked

In a process with Python {python} and torch {torch}, where neither dscsr nor BasicSR can be imported, the file was
imported alone, the weights were loaded with `strict=True`, and the images compared with the trained network's, in
float64, on random sizes ({sizes}). The largest difference was {inside:.1e}; allowed is {tolerance:g} of the
largest value.
{border}"""
