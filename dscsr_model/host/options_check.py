"""Checks an option file before anything heavy starts, and says everything that is wrong with it at once.

`check_options` runs inside ``dscsr train|test``. It builds no dataset, starts no process group and writes nothing;
networks are built without memory for their weights where that is possible. The rooms, in the order of the check:

- `options_file`: is it there, is it YAML, ``--force_yml``;
- `options_structure` and `options_dataset_keys` with the tables of `options_schema`, made of `options_kinds`: keys and
  types of values;
- `options_unread`: options of ours that the model type does not read;
- `options_registry`: types that are named, and the arguments of their constructors;
- `options_losses`: values of our losses, and the weights they need;
- `options_machine`: GPUs, and a place to write;
- `options_data` with `options_images`: folders, LMDBs, pairs, sizes, batches;
- `options_weights` with `options_networks`: networks, their scale, weight files, the state to resume from;
- `options_teacher`: teachers, LoRA, and what losses compare;
- `options_csd`: backbone, widths and losses of CSDModel.

Only what is unreadable stops the check early. Types of other plugins are met with `options_schema`'s rule: what only
they know is not rejected.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dscsr_model.host import options_schema as schema
from dscsr_model.host import user_code
from dscsr_model.host.options_csd import check_csd, check_csd_sections
from dscsr_model.host.options_data import check_datasets, leave_out_missing
from dscsr_model.host.options_dataset_keys import check_dataset_keys
from dscsr_model.host.options_faults import Fault, OptionsError
from dscsr_model.host.options_file import apply_force_yml, read_options
from dscsr_model.host.options_losses import check_losses
from dscsr_model.host.options_machine import check_gpus, check_place
from dscsr_model.host.options_registry import Registries, check_registered, known_type
from dscsr_model.host.options_structure import Run, check_structure
from dscsr_model.host.options_teacher import check_learning, check_learning_sections
from dscsr_model.host.options_unread import check_unread
from dscsr_model.host.options_weights import check_networks

__all__ = ["Fault", "OptionsError", "check_options"]


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
    apply_force_yml(options, force_yml, report)
    registries = Registries()
    user_code.import_user_code([*imports, *user_code.names(options.get("import"))], path)
    left_out = leave_out_missing(options) if skip_missing else {}
    datasets = options.get("datasets")
    run = Run(
        options=options,
        report=report,
        is_train=is_train,
        launcher=launcher,
        auto_resume=auto_resume,
        known_model=known_type(options.get("model_type"), schema.MODEL_OPTIONS, registries.models),
        known_datasets={
            name: known_type(section.get("type"), schema.DATASET_OPTIONS, registries.datasets)
            for name, section in (datasets.items() if isinstance(datasets, dict) else ())
            if isinstance(section, dict)
        },
    )
    check_learning_sections(run, registries)
    check_csd_sections(run, registries)
    check_unread(run, registries)
    check_structure(run)
    check_dataset_keys(run)
    check_registered(run, registries)
    check_losses(run, registries)
    check_gpus(run)
    check_place(run)
    check_datasets(run)
    network = check_networks(run, registries)
    check_learning(run, registries, network)
    check_csd(run, network)
    report.raise_if_any()
    return left_out
