"""What a run of one of our models changes in the train loop that runs it, and nobody else's run.

Every train script of BasicSR's kind calls ``parse_options`` first and looks up later what it builds and loads with.
So there, once the options say whose model it is, names in the script's own module are replaced; they are put back
when the next run begins. A run of a host's own model and data set meets nothing of it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from contextlib import ExitStack
from typing import Any

from dscsr_model.host.patches import Patches

_patches = Patches()
_experiment = ExitStack()
"""Holds the lock of the run in this process, if one of our models is being trained."""


def leave() -> None:
    """Put back what the last run in this process needed."""
    _patches.undo()
    _experiment.close()


def enter(namespace: dict[str, Any], opt: dict[str, Any], parsed: Any) -> None:
    """Prepare the loop in a train script's ``namespace`` for the run that these options describe.

    Args:
        namespace: Of the module that called ``parse_options``.
        opt: All options.
        parsed: The command line.

    Raises:
        BusyError: Another training of this name is running.
    """
    from dscsr_model.host import lock, registration, resume, run_errors, sampling, train_log

    if registration.is_our_model(opt.get("model_type")):
        _patches.set(sys, "excepthook", run_errors.without_traceback(sys.excepthook))
        _patches.set(warnings, "showwarning", train_log.logging_ours(warnings.showwarning))
        if opt.get("is_train"):
            _experiment.callback(lock.lock_experiment(opt).release)
        _seed_as_forced(opt, parsed)
        resume.install(_patches, namespace)
        train_log.install(_patches, namespace)
    elif "build_dataloader" in namespace:  # a data set of ours asks for draws whoever trains
        build = sampling.handing_out_draws(namespace["build_dataloader"])
        _patches.set(namespace, "build_dataloader", build)


def _seed_as_forced(opt: dict[str, Any], parsed: Any) -> None:
    """BasicSR seeds before it reads ``--force_yml``: runs with other seeds would be the same run."""
    forced = [
        entry for entry in getattr(parsed, "force_yml", None) or () if entry.split("=")[0].strip() == "manual_seed"
    ]
    if forced and opt.get("manual_seed") is not None:
        importlib.import_module("basicsr.utils").set_random_seed(opt["manual_seed"] + opt["rank"])
