"""All that touches BasicSR's train loop: what a run of one of our models changes in it, and nobody else's run.

Every train script of BasicSR's kind calls ``parse_options`` first and looks up later, in its own module, what it builds
and loads with. So there, once the options say whose model it is, a `Run` takes the place of these names, until the next
run begins. A run of a host's own model and data set meets nothing of it.
"""

from __future__ import annotations

import atexit
import functools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from dscsr_arch.errors import DscsrError
from dscsr_model.data.keyed_samples import KeyedSampler
from dscsr_model.host import console, lock, registration, run_errors, train_log, user_code, weight_names
from dscsr_model.host.patches import Overlay, Patches, gpu, mentions, replaced
from dscsr_model.host.screen import Command
from dscsr_model.host.train_data import TrainEpochs, build_keyed_dataloader, build_train_loader
from dscsr_model.training import checkpoints, stopping
from dscsr_model.training.clock import EndingLoader
from dscsr_model.training.stages import stages_of

_changed = ExitStack()
"""Puts back what the last run in this process changed, and gives back the lock of its experiment."""

_left_out: Mapping[str, str] | None = None
"""What the option check that `dscsr` runs has left out; None in a script of others, which runs none."""

_imports: Sequence[str] = ()
"""What `dscsr` was told to import on its command line, of which BasicSR knows nothing."""

LENGTHS = "create_train_val_dataloader"
"""What tells BasicSR's loop how many epochs there are."""

_runs: list[Run] = []
"""The run of one of our models that this process is in, if there is one."""


def leave(finished: bool = False) -> None:
    """End the run of this process, if there is one: everything is as it was before it.

    Args:
        finished: It has done all that it was to do, unless an error has ended the process.
    """
    while _runs:
        _runs.pop().console.end(finished and getattr(sys, "last_value", None) is None)
    _changed.close()


@contextmanager
def checked(left_out: Mapping[str, str], imports: Sequence[str] = ()) -> Iterator[None]:
    """Inside, options are not checked again, and read as if they had no datasets of the names in ``left_out``."""
    global _left_out, _imports
    _left_out, _imports = left_out, imports
    try:
        yield
    finally:
        _left_out, _imports = None, ()


def entering(parse_options: Callable[..., Any]) -> Callable[..., Any]:
    """``parse_options``, by which every loop begins: then the run that it has read is entered."""

    @functools.wraps(parse_options)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # `python basicsr/train.py` runs that file as `__main__`, another module than `basicsr.train`.
        namespace = sys._getframe(1).f_globals
        leave()
        if not mentions(parse_options, "--local-rank"):
            sys.argv[1:] = [re.sub("^--local-rank", "--local_rank", arg) for arg in sys.argv[1:]]
        result = console.read_options(parse_options, *args, **kwargs)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # a project's own, which gives something else: its loop is not one that we know
        opt, parsed = result
        user_code.import_user_code(user_code.names(opt.get("import")), parsed.opt)
        for name in _left_out or ():
            del opt["datasets"][name]
        if _left_out is not None or registration.is_our_model(opt.get("model_type")):
            weight_names.put_files(opt, is_train=opt.get("is_train", True))
        for dataset in opt["datasets"].values():
            if dataset.get("prefetch_mode") == "cuda" and not gpu():
                print("dscsr: no GPU is usable, so `prefetch_mode: cuda` is taken as `~`.", file=sys.stderr)
                dataset.update(prefetch_mode=None, pin_memory=False)
        enter(namespace, opt, parsed)
        return result

    return wrapper


def enter(namespace: dict[str, Any], opt: dict[str, Any], parsed: Any) -> None:
    """Prepare the names of a train script, which has parsed its command line, for the run that its options describe.

    Raises:
        BusyError: Another training of this name is running.
    """
    patches = Patches()
    _changed.callback(patches.undo)
    if mentions(load := namespace.get("load_resume_state"), "current_device") and not gpu():
        patches.set(namespace, "load_resume_state", partial(_load_on_cpu, load))
    if registration.is_our_model(opt.get("model_type")):
        Run(opt, parsed, patches).take_over(namespace)
    elif "build_dataloader" in namespace:  # a data set of ours asks for sample keys whoever trains
        patches.set(namespace, "build_dataloader", partial(build_keyed_dataloader, namespace["build_dataloader"]))


def _load_on_cpu(load_resume_state: Any, opt: dict[str, Any]) -> Any:
    cuda = Overlay(torch.cuda, current_device=lambda: 0)
    load = lambda path, **_: torch.load(path, map_location="cpu")  # noqa: E731
    with replaced(load_resume_state.__globals__, torch=Overlay(torch, cuda=cuda, load=load)):
        return load_resume_state(opt)


class Run:
    """A run of one of our models.

    Its methods in `LOOP` stand in for what the train loop calls by these names, in this order. Each gets BasicSR's own
    first. ``patches`` are undone when the run ends.
    """

    LOOP = ("load_resume_state", "get_root_logger", "build_dataloader", "build_model", "MessageLogger")
    TEST_LOOP = ("get_root_logger", "build_dataloader", "build_model")

    def __init__(self, opt: dict[str, Any], parsed: Any, patches: Patches) -> None:
        self.opt = opt
        self.parsed = parsed
        self.patches = patches
        self.state: dict[str, Any] | None = None
        self.model: Any = None
        self.train_loader: Any = None
        self.epochs: TrainEpochs | None = None
        self.other_loaders: list[Any] = []
        self.console = console.Console(opt, Command.of_this_process(_imports))
        _runs.append(self)
        atexit.register(leave, finished=True)  # in a script of others
        patches.set(sys, "excepthook", run_errors.without_traceback(sys.excepthook))
        patches.set(warnings, "showwarning", train_log.logging_ours(warnings.showwarning))
        if opt.get("is_train"):
            _changed.callback(lock.lock_experiment(opt).release)
        # BasicSR seeds before it reads `--force_yml`: runs with other seeds would be the same run.
        forced = [entry.split("=")[0].strip() for entry in getattr(parsed, "force_yml", None) or ()]
        if "manual_seed" in forced and opt.get("manual_seed") is not None:
            self._seed(opt["manual_seed"])

    def take_over(self, namespace: dict[str, Any]) -> None:
        """Stand in for the loop's names. A module that lacks any is none of BasicSR's kind."""
        names: tuple[str, ...] = self.LOOP if "load_resume_state" in namespace else self.TEST_LOOP
        if namespace.keys() >= set(names):
            if misc := sys.modules.get("basicsr.utils.misc"):
                self.patches.set(misc, "print", self.console.hold)
            if names is self.LOOP and LENGTHS in namespace:
                names = (*names, LENGTHS)
            elif self.opt.get("train", {}).get("stages"):
                got, remedy = f"one without `{LENGTHS}`", "Take `dscsr train`, or BasicSR's `train.py`."
                raise DscsrError("a train loop whose epochs can be counted, for `train: stages`", got, remedy)
            for name in names:
                self.patches.set(namespace, name, partial(getattr(self, name), namespace[name]))

    def load_resume_state(self, load: Callable[..., Any], opt: dict[str, Any]) -> Any:
        """The newest training state that is whole, with its network; BasicSR takes the newest by its name alone."""
        if _left_out is None:  # and BasicSR has written nothing yet
            self._check(opt)
        if opt.get("auto_resume"):
            experiment = Path("experiments", opt["name"])  # as BasicSR looks for it
            states = experiment / "training_states"
            newest, passed_over = checkpoints.newest_whole(states, experiment / "models")
            for line in passed_over:
                self.console.say(f"dscsr: {line}")
            if newest is not None:
                opt["auto_resume"], opt["path"]["resume_state"] = False, str(newest)
            elif checkpoints.iterations(states):
                raise DscsrError(
                    f"a whole checkpoint in {experiment}", "none that opens", "Move the folder away to train anew."
                )
        self.state = load(opt)
        if self.state is not None:
            self._check_end(self.state)
            self._keep_seed(self.state.get("manual_seed"))
        return self.state

    def get_root_logger(self, get: Callable[..., logging.Logger], *args: Any, **kwargs: Any) -> logging.Logger:
        """BasicSR's log, without what is untrue of our models; a full disk ends it, and the console shows less."""
        logger = get(*args, **kwargs)
        train_log.correct(logger, self.patches)
        self.console.quiet(logger, self.patches)
        return logger

    def build_dataloader(
        self, build: Callable[..., Any], dataset: Any, dataset_opt: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Every training set is drawn from by key, by a loader that leaves out what was seen before the checkpoint."""
        if not gpu():
            dataset_opt = {**dataset_opt, "pin_memory": False}  # else torch warns that it cannot
        if dataset_opt["phase"] != "train":
            loader = build(dataset, dataset_opt, *args, **kwargs)
            self.other_loaders.append(loader)
            return loader
        loader = build_train_loader(self.opt["manual_seed"], build, dataset, dataset_opt, *args, **kwargs)
        sampler = loader.batch_sampler.sampler
        if isinstance(sampler, KeyedSampler):
            sampler.on_epoch = self.begin_epoch
            stages = stages_of(self.opt["train"], dataset_opt)
            self.epochs = TrainEpochs(stages, loader, dataset_opt["batch_size_per_gpu"])
            if self.state is not None:
                self.epochs.resume(self.state)
        self.train_loader = loader
        if self.opt["train"].get("max_seconds"):
            return EndingLoader(loader, self.is_out_of_time)
        return loader

    def create_train_val_dataloader(self, create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Loaders and lengths. BasicSR counts epochs by one batch, with the last, incomplete one, which it drops."""
        *loaders, epochs, iterations = create(*args, **kwargs)
        return *loaders, max(epochs, len(self.epochs or ())), iterations

    def build_model(self, build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The model, remembered: at the start of each epoch it is asked whether it goes on."""
        self.model = build(*args, **kwargs)
        if not self.opt["is_train"]:
            self.console.begin(self.model, None, self.other_loaders)
        return self.model

    def MessageLogger(  # noqa: N802 - the name in the loop
        self, kind: type[Any], opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None
    ) -> Callable[[dict[str, Any]], None]:
        """What shows each step, made when all is ready for the first one: from here on signals are listened to."""
        echo = stopping.ECHO_OF_TORCHRUN if opt["dist"] else stopping.ECHO
        _changed.enter_context(stopping.noted_in(self.model.stop, tell=opt["rank"] == 0, echo=echo))
        if tb_logger is not None:
            atexit.register(train_log.close, tb_logger)
            if start_iter:
                train_log.undo_after(start_iter, tb_logger)
        self.console.begin(self.model, self.train_loader, self.other_loaders, start_iter)
        self.model.validate_start(self.other_loaders, start_iter, tb_logger)
        return train_log.with_learning_rates(kind, self.model)(opt, start_iter, tb_logger)

    def begin_epoch(self, epoch: int) -> None:
        """Before its workers start, which can take longer than a job is given to end, look for a signal."""
        if not self.is_out_of_time():
            self.model.epoch = epoch
        if self.epochs is not None:
            self.epochs.begin(epoch)
        self.model.end_if_asked()

    def is_out_of_time(self) -> bool:
        """Whether time has ended the training; then the loop only counts through the epochs that are left."""
        return bool(self.opt["train"].get("max_seconds") and self.model is not None and self.model.stop.share >= 1)

    def _check(self, opt: dict[str, Any]) -> None:
        """Rank 0 checks the options, and tells what is wrong. The random state is as it was before."""
        from dscsr_model.host.options.check import check_read_options

        faulty = [True]
        try:
            if opt["rank"] == 0:
                check_read_options(opt, self.parsed.opt, launcher=getattr(self.parsed, "launcher", "none"))
            faulty = [False]
        finally:
            if opt["dist"]:
                distributed.broadcast_object_list(faulty)
        if faulty[0]:
            raise DscsrError("options without faults", "some, which rank 0 tells", "Correct them.")
        if opt.get("manual_seed") is not None:
            self._seed(opt["manual_seed"])

    def _check_end(self, state: dict[str, Any]) -> None:
        iteration, total = state["iter"], int(self.opt["train"]["total_iter"])
        if iteration > total:
            raise DscsrError(
                f"`train: total_iter` to be more than the iteration of {self.opt['path']['resume_state']}",
                total,
                "Raise it, or name an earlier one as `path: resume_state`, without `--auto_resume`.",
            )
        if iteration == total:
            self.console.say(f"dscsr: this run is at its end, iteration {total}; a larger `total_iter` goes on.")
        elif 0 < (limit := self.opt["train"].get("max_seconds") or 0) <= state.get("seconds", 0):
            self.console.say(f"dscsr: this run is at its end, {limit:g} s of training; a larger `max_seconds` goes on.")

    def _keep_seed(self, seed: int | None) -> None:
        """Go on with the seed of the run, which BasicSR draws anew at every start if the options give none."""
        if seed is not None and seed != self.opt["manual_seed"]:
            self.console.say(f"dscsr: `manual_seed` stays {seed}: the run began with it, and draws samples from it.")
            self.opt["manual_seed"] = seed
            self._seed(seed)

    def _seed(self, seed: int) -> None:
        from basicsr.utils import set_random_seed

        set_random_seed(seed + self.opt["rank"])
