"""Starts BasicSR's own train and test pipelines: options checked first, the working directory as root."""

import argparse
import gc
import importlib
import os
import sys
from contextlib import suppress

from dscsr_arch.errors import DscsrError
from dscsr_model.host import registration
from dscsr_model.host.install_help import look_into_working_directory, require_basicsr
from dscsr_model.host.patches import replaced
from dscsr_model.host.run_errors import explained


def run(phase: str, args: argparse.Namespace) -> None:
    """Run BasicSR's ``train_pipeline`` or ``test_pipeline``, as ``phase`` says, under the working directory.

    Raises:
        DscsrError: BasicSR is missing, the launcher does not fit, or the options are faulty: nothing was written. Or
            the run ended with an error that is not ours (`run_errors`).
    """
    look_into_working_directory()
    require_basicsr()
    _check_launcher(args.launcher)
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # nobody may be reading
            print(f"Checking {args.opt} …", file=sys.stderr, flush=True)  # what follows takes seconds
    registration.register()
    from dscsr_model.host import loop  # from here on BasicSR can be imported
    from dscsr_model.host.options.check import check_options
    from dscsr_model.training.stopping import Stopped

    left_out = check_options(
        args.opt,
        is_train=phase == "train",
        force_yml=args.force_yml or (),
        launcher=args.launcher,
        auto_resume=args.auto_resume,
        imports=args.imports or (),
        skip_missing=getattr(args, "skip_missing", False),
    )
    if left_out and os.environ.get("RANK", "0") == "0":
        missing = ", ".join(f"`{name}` ({path})" for name, path in left_out.items())
        print(f"dscsr: left out, since their folders are missing: {missing}", file=sys.stderr)
    module, stopped = importlib.import_module(f"basicsr.{phase}"), None
    # BasicSR reads its arguments there, and writes that line above its copy of the option file.
    with replaced(sys, argv=[f"dscsr {phase}", *basicsr_arguments(args)]), loop.checked(left_out, args.imports or ()):
        try:
            # Not the folder above the installed package, which BasicSR's own scripts take.
            getattr(module, f"{phase}_pipeline")(os.getcwd())
            loop.leave(finished=True)
        except Stopped as request:
            stopped = Stopped(request.signal_number)  # without the frames, which hold the network
        except DscsrError:
            raise
        except Exception as error:
            if (told := explained(error)) is None:
                raise
            raise told from error
        finally:
            loop.leave()
    _leave_process_group()
    if stopped is not None:
        raise stopped


def basicsr_arguments(args: argparse.Namespace) -> list[str]:
    """The command line of BasicSR's ``train.py`` and ``test.py`` that says the same as ``args``."""
    argv = ["-opt", args.opt, "--launcher", args.launcher, "--local_rank", str(args.local_rank)]
    argv += [flag for flag in ("--auto_resume", "--debug") if getattr(args, flag.removeprefix("--"))]
    return argv + (["--force_yml", *args.force_yml] if args.force_yml else [])


_LAUNCHERS = {  # to the variables that it sets, and the way to start it
    "pytorch": (
        "torchrun", ("RANK", "WORLD_SIZE"),
        "Start with `torchrun --nproc-per-node N -m dscsr_model.cli train …`, or drop the launcher.",
    ),
    "slurm": (
        "slurm", ("SLURM_PROCID", "SLURM_NTASKS"), "Start with `srun`, or use torchrun and `--launcher pytorch`."
    ),
}  # fmt: skip


def _check_launcher(launcher: str) -> None:
    starter, variables, remedy = _LAUNCHERS.get(launcher, ("", (), ""))
    if not all(name in os.environ for name in variables):
        named = f"the environment of {starter} ({', '.join(variables)}) for `--launcher {launcher}`"
        raise DscsrError(named, "none", remedy)
    ranks = os.environ.get("WORLD_SIZE", "1")
    if launcher == "none" and ranks not in ("", "0", "1"):
        raise DscsrError(
            f"`--launcher pytorch` in {ranks} processes started together",
            "`--launcher none`: each would train alone in the same folder",
            "Add `--launcher pytorch`.",
        )


def _leave_process_group() -> None:
    # After a failure it is left to the end of the process: a peer may be waiting in a collective for ever.
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_backend() == "gloo":
            # With the network gone and all ranks together, else torch 2.13 aborts now and then while it ends.
            gc.collect()
            distributed.barrier()
        distributed.destroy_process_group()
