"""Checks an option file before anything heavy starts, and says everything that is wrong with it at once.

`check_options` runs inside ``dscsr train|test``, `check_read_options` where a train script of others trains a model of
ours. Both build no dataset, start no process group and write nothing; networks are built without memory for their
weights where that is possible. The rooms, in the order of the check:

- `file`: is it there, is it YAML, ``--force_yml``;
- `structure`: keys and values, against the declarations of `dscsr_model.options`;
- `stages`: whether their table makes sense; the next two look at each of them, the others at what it changes;
- `registry`: types that are named, the arguments of their constructors, options of ours that another model ignores;
- `losses`: what they compare, and whether they can be built;
- `data` with `images`: GPUs, folders, LMDBs, pairs, sizes, batches;
- `weights` with `networks`: networks, their scale, weight files, the state to resume from;
- `teachers` and `stored_teacher`: LoRA, what students learn from.

Only what is unreadable stops the check early. What only types of other plugins know is not rejected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dscsr_model.host import user_code, weight_names
from dscsr_model.host.options.data import check_datasets, check_machine, leave_out_missing
from dscsr_model.host.options.faults import Fault, OptionsError, Report
from dscsr_model.host.options.file import apply_force_yml, read_options
from dscsr_model.host.options.losses import check_csd, check_losses, check_targets
from dscsr_model.host.options.registry import check_registered, check_unread
from dscsr_model.host.options.run import Run, registries
from dscsr_model.host.options.stages import check_stages
from dscsr_model.host.options.stored_teacher import check_stored_teacher
from dscsr_model.host.options.structure import check_loss_keys, check_structure
from dscsr_model.host.options.teachers import check_teachers
from dscsr_model.host.options.weights import check_networks

__all__ = ["Fault", "OptionsError", "check_options", "check_read_options"]


def check_options(
    path: str | os.PathLike[str],
    *,
    is_train: bool,
    force_yml: Sequence[str] = (),
    launcher: str = "none",
    auto_resume: bool = False,
    imports: Sequence[str] = (),
    skip_missing: bool = False,
) -> dict[str, str]:
    """Check an option file as BasicSR's train or test pipeline would read it.

    Args:
        path: The option file. Paths inside it are taken from the working directory, as BasicSR does.
        is_train: Whether to train (True) or to test with it.
        force_yml: Entries of ``--force_yml``, for example ``["train:total_iter=1000"]``; applied before checking.
        launcher: ``none``, ``pytorch`` or ``slurm``; the number of processes is read from their environment.
        auto_resume: Whether ``--auto_resume`` is given: weights then come from the newest checkpoint.
        imports: Files and modules of ``--import``, beside those that the option file names.
        skip_missing: Leave out datasets whose folders are not there, unless none is.

    Returns:
        The path that is missing of every dataset that was left out, by its key under ``datasets:``.

    Raises:
        OptionsError: Something is wrong; it lists all that is.
        DscsrError: BasicSR itself cannot be used, or the user's own code cannot be imported.
    """
    options, report = read_options(os.fspath(path))
    found = registries()
    apply_force_yml(options, force_yml, report)
    user_code.import_user_code([*imports, *user_code.names(options.get("import"))], path)
    left_out = leave_out_missing(options) if skip_missing else {}
    _check(Run(options, report, is_train, launcher, auto_resume, found))
    return left_out


def check_read_options(options: Mapping[str, Any], path: str | os.PathLike[str], *, launcher: str) -> None:
    """Check what a train script of others has made of an option file: values it may have set, keys it may read itself.

    Args:
        options: As BasicSR's ``parse_options`` gives them, or as the script has changed them.
        path: The file that they were read from.
        launcher: See `check_options`.

    Raises:
        OptionsError: Something is wrong; it lists all that is.
    """
    report = Report(os.fspath(path))
    with suppress(OptionsError):  # the script may read more than BasicSR does
        _, report = read_options(os.fspath(path))
    _check(Run(options, report, True, launcher, options["auto_resume"], registries(), own_keys=True))


def _check(run: Run) -> None:
    check_unread(run)
    check_structure(run)
    weight_names.put_files(run.options, run.report.catching, is_train=run.is_train)
    check_stages(run)
    for stage in run.by_stage:
        check_loss_keys(stage)
        check_targets(stage)
        check_registered(stage)
        check_losses(stage)
    check_machine(run)
    check_datasets(run)
    check_stored_teacher(run)
    network = check_networks(run)
    check_teachers(run, network)
    check_csd(run, network)
    run.report.raise_if_any()
