"""Profiles of known figures, without measuring."""

from dscsr_model.evaluation.protocol import Quality
from dscsr_model.profiling.complexity import Complexity
from dscsr_model.profiling.latency import Latency
from dscsr_model.profiling.profile import Measured, Profile, Run, Settings

MACHINE = {"device": "CPU", "cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "python": "3.11.7"}


def run(ms, memory=3 * 2**20, images_ms=None):
    return Run(Latency(ms, 0.9 * ms, 1.2 * ms, ms, 7), memory, images_ms)


def measured(ms=10.0, parameters=150_688, flops=9_833_807_872, psnr=None, images_ms=None, **others):
    runs = {"eager": run(ms, images_ms=images_ms), **others}
    return Measured(Complexity(parameters, flops, 41_680_896, 22), flops, runs, psnr and Quality(psnr, psnr + 2, 5))


def profile_of(baseline=8.0, settings=None, **networks):
    return Profile(networks, MACHINE, settings or Settings(), baseline and run(baseline))
