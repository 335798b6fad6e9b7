"""What a kit says in words: the branch for the challenge's script, the README, the file's own docstring."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from dscsr_arch.metadata import Metadata, in_words
from dscsr_arch.words import many
from dscsr_model.export.ntire.folding import FOLDED
from dscsr_model.export.ntire.own_file import OwnFile
from dscsr_model.export.ntire.self_check import SIZE, TOLERANCE
from dscsr_model.export.ntire.single_file import SingleFile
from dscsr_model.profiling.score import BASELINES, score

if TYPE_CHECKING:
    from dscsr_model.export.ntire.kit import Kit, Made
    from dscsr_model.export.ntire.self_check import Figures

THRESHOLD = 26.90
"""dB on DIV2K_LSDIR_valid: a submission below it is not ranked."""
_VALIDATION = "DIV2K_LSDIR_valid"
"""In the name of the folder of the challenge's images, as the challenge gives them out."""


_CONVOLUTIONS_ALONE = " (of its convolutions alone: the check's Python has no fvcore)"
_LIKE = 15.0
"""dB: an output that is less like its input comes of wrong weights or a wrong range. Trained networks have above 25."""


def docstring(kit: Kit, form: SingleFile | OwnFile) -> str:
    """The first lines of the submission's file."""
    return (
        f"{kit.name}, the network of team {kit.team:02} for the NTIRE efficient super-resolution challenge.\n\n"
        f"{form.describes}\n\n"
        f"``{kit.name}()`` fits model_zoo/{kit.stem}.pth and takes RGB in [0, {form.data_range:g}] "
        f"(data_range {form.data_range}).\n"
        f"Written by dscsr {dscsr_version()}.\n"
    )


def branch(made: Made) -> str:
    """Lines for ``select_model`` of the challenge's test_demo.py, indented as they stand there."""
    kit = made.kit
    return f"""\
    elif model_id == {kit.team}:
        from models.{kit.stem} import {kit.name}
        name, data_range = f"{{model_id:02}}_{kit.name}", {made.form.data_range}
        model_path = os.path.join('model_zoo', '{kit.stem}.pth')
        model = {kit.name}()
        model.load_state_dict(torch.load(model_path), strict=True)
"""


def table(made: Made) -> list[tuple[str, str]]:
    """The figures of a kit, as rows of what and how much."""
    figures, quality = made.figures, made.quality
    rows = [
        ("Network", describe(made.form)),
        ("Parameters", f"{figures.parameters / 1e6:.3f} M ({figures.parameters:,})"),
        ("FLOPs at 256x256", f"{figures.flops / 1e9:.2f} G" + ("" if figures.counted_by else _CONVOLUTIONS_ALONE)),
        ("Activations at 256x256", f"{figures.activations / 1e6:.2f} M"),
        ("Convolutions", str(figures.convolutions)),
    ]
    if isinstance(made.form, SingleFile) and "fold" in made.form.arguments:
        parameters, operations = made.form.saved
        flops = operations * SIZE[0] * SIZE[1]
        rows.append(("Saved by --fold", f"{parameters:,} parameters, {flops / 1e9:.2f} G FLOPs"))
    if figures.runtime_ms is not None and figures.baseline_ms is not None:
        base = BASELINES[2026].name
        value = score(figures.runtime_ms, figures.flops, figures.parameters, 2026, baseline_ms=figures.baseline_ms)
        rows += [
            ("Runtime at 256x256, here", f"{figures.runtime_ms:.1f} ms (median of {figures.runs}; {figures.machine})"),
            (f"Runtime of {base}, here", f"{figures.baseline_ms:.1f} ms (in turns with it)"),
            ("Score of 2026 with these times", f"{value:.2f} ({base}: {math.e**2:.2f}; the lower, the better)"),
        ]
    if quality is not None and made.kit.data is not None:
        folder = made.kit.data[0].name
        text = f"{quality.psnr:.3f} dB, mean of {many(quality.images, 'image')} in {folder}"
        if _VALIDATION in folder:  # of other images the threshold says nothing
            verdict = "at least" if quality.psnr >= THRESHOLD else "BELOW"
            text += f"; {verdict} the {THRESHOLD:.2f} dB that the challenge asks for"
        rows.append(("PSNR (RGB, 8 bits, border 4)", text))
    return rows


def describe(form: SingleFile | OwnFile) -> str:
    """The network in a few words."""
    if isinstance(form, OwnFile):
        arguments = ", ".join(f"{name}={value!r}" for name, value in form.arguments.items())
        return f"{form.network}({arguments}) of {form.path.name}"
    blocks = f", {form.arguments['num_block']} blocks" if "num_block" in form.arguments else ""
    fold = form.arguments.get("fold")
    folds = f", {FOLDED[form.network][fold]}" if fold else ""
    return f"{in_words(Metadata(form.network, form.arguments))}{blocks}{folds}"


def checked(made: Made) -> str:
    """One line about the self-check."""
    figures, form = made.figures, made.form
    if isinstance(form, OwnFile):
        like = _likeness(figures)
        return f"Python {figures.python}, torch {figures.torch}: its weights fit; {like}"
    where = f" ({figures.at_border:.1e} at the border)" if made.form.border else ""
    return (
        f"Python {figures.python}, torch {figures.torch}: differs from the trained network by at most "
        f"{figures.inside:.1e}{where}"
    )


def _likeness(figures: Figures) -> str:
    """How like its input a network's output is, and what it means if it is not."""
    value = figures.likeness or 0.0
    like = f"its output, reduced by 4, is like its input to {value:.1f} dB"
    return (
        like if value >= _LIKE else f"{like}, which is LITTLE: are these its weights, is this its range (--data-range)?"
    )


def dscsr_version() -> str:
    """Of the package that writes the kit."""
    try:
        return version("dscsr")
    except PackageNotFoundError:  # run from a checkout
        return "(not installed)"


def readme(made: Made) -> str:
    """The kit's README.md."""
    kit = made.kit
    rows = "\n".join(f"| {what} | {value} |" for what, value in table(made))
    return f"""# {kit.name}, team {kit.team:02}

A submission to the NTIRE efficient super-resolution challenge, written by dscsr {dscsr_version()}.

| | |
|---|---|
{rows}

FLOPs are multiplications with an addition each, as fvcore counts them. Runtime on another machine than the challenge's
says little; the comparison with the baseline on the same machine says more. The challenge asks for {THRESHOLD:.2f} dB
on its own images, {_VALIDATION}; PSNR on others cannot be compared with that.

The challenge's script times the first image too. So the constructor, where there is a GPU, sends one image of
256x256 through it, as the top teams' do, and leaves the network on the CPU.

## Hand it in

1. Copy `models/{kit.stem}.py` and `model_zoo/{kit.stem}.pth` into the folders of these names of the challenge's
   repository: https://github.com/Amazingren/NTIRE2026_ESR for 2026, NTIRE2025_ESR for 2025. Both scripts take them.
2. Look whether the number is free: no branch of `select_model` in its `test_demo.py` may have `model_id == {kit.team}`
   yet. An earlier one would run in place of yours.
3. Put these lines, which are in `test_demo_branch.txt` too, into `select_model`, before `else:`:

```python
{branch(made).rstrip()}
```

4. Try it: `python test_demo.py --data_dir DATA --save_dir RESULTS --model_id {kit.team}`

## Checked

{_what_was_checked(made)}
"""


def _what_was_checked(made: Made) -> str:
    figures, form = made.figures, made.form
    sizes = ", ".join(f"{height}x{width}" for height, width in figures.sizes)
    alone = (
        f"In a process with Python {figures.python} and torch {figures.torch}, where neither dscsr nor BasicSR can be "
        "imported,\nthe file was imported alone and the weights were loaded with `strict=True`."
    )
    if isinstance(form, OwnFile):
        return f"""{alone} Of images of {sizes}
it made finite ones of four times the size, the same when another image had run through it before its weights came;
{_likeness(figures)}."""
    text = f"""{alone} Its images were
compared with the trained network's, in float64, on random sizes ({sizes}). The largest difference was
{figures.inside:.1e}; allowed is {TOLERANCE:g} of the largest value."""
    if not form.border:
        return text
    return f"""{text}

`conv_1` is folded into `block_1`, which changes the image near its border: within {form.border} pixels of the
input from each side, by up to {figures.at_border:.2g} for the check's random images, and by {figures.inside:.1e}
inside. `--data` says what that costs: compare the PSNR with and without `--fold all`."""
