"""The official results of 2026, and where networks of one's own would stand among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from dscsr_arch.errors import DscsrError
from dscsr_arch.sizes import size_requirements
from dscsr_model.inference.receptive_field import PROBE_SIDE, try_channels
from dscsr_model.profiling.profile import Profile
from dscsr_model.profiling.report import aligned, psnr_of, score_in_words, wrapped
from dscsr_model.profiling.score import BASELINES, Given, Scored, score, scores

SOURCE = "The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, arXiv 2604.03198"
LEAST_VALID, LEAST_TEST = 26.90, 26.99
"""PSNR in dB on RGB, on DIV2K_LSDIR's validation and test images, below which the challenge ranks no network."""
_BASE = BASELINES[2026]
_TERMS = {
    "runtime_ms": ("runtime", _BASE.runtime_ms, _BASE.weights[0], "ms", 1, 2),
    "flops": ("FLOPs", _BASE.flops, _BASE.weights[1], "G", 1e9, 2),
    "parameters": ("parameters", _BASE.parameters, _BASE.weights[2], "M", 1e6, 3),
}
"""By the arguments of `score`: in words, the baseline's, weight; unit, how much it is, decimals."""


class Result(NamedTuple):
    """A row of the official table, in its units; ×4, an image of 256×256, milliseconds on the challenge's A6000."""

    name: str
    runtime_ms: float
    flops_g: float
    parameters_m: float
    activations_m: float
    convolutions: int
    psnr_valid: float
    psnr_test: float

    @property
    def score(self) -> float:
        """Follows from the figures; to two decimals it is the published one."""
        return score(self.runtime_ms, self.flops_g * 1e9, self.parameters_m * 1e6)


RESULTS = (
    Result("SPANV2", 5.24, 1.59, 0.139, 42.99, 18, 26.92, 27.00),
    Result("PDS", 6.70, 9.25, 0.142, 39.06, 18, 26.90, 26.99),
    Result("PKDSR", 6.80, 9.40, 0.144, 39.32, 18, 26.91, 27.00),
    Result("DISP", 6.51, 10.69, 0.164, 40.89, 19, 26.90, 27.02),
    Result("DSCF_Fused", 7.88, 8.22, 0.126, 38.93, 22, 26.92, 26.99),
    Result("ERRN2", 9.37, 16.06, 0.246, 57.67, 27, 26.90, 27.01),
    Result("RFDN_SPAN", 16.66, 22.60, 0.346, 84.54, 36, 26.91, 26.98),
    Result("AMCANet", 18.26, 5.24, 0.086, 192.17, 136, 26.90, 27.02),
    Result("HFENet", 33.64, 8.91, 0.144, 259.92, 157, 26.92, 27.03),
)
"""The submissions, the best first."""
BASELINE_RESULT = Result(
    "SPAN-28", _BASE.runtime_ms, _BASE.flops / 1e9, _BASE.parameters / 1e6, 41.68, 22, 26.94, 27.01
)
_ALL = (*RESULTS, BASELINE_RESULT)
SPANV2_FLOPS = 9.1e9
"""What SPANV2's parameters make at 256×256; the official 1.59 G are those of its first block and its tail alone."""


class Standing(NamedTuple):
    """Where a network would stand, and the way to the next place."""

    scored: Scored
    figures: dict[str, float]
    """As `score` takes them; the time is that on the challenge's machine: given, or else estimated, as the part of the
    baseline's time that it takes here."""
    rank: int
    ranks: tuple[int, int]
    """The best and the worst within the spread of the times."""
    to_pass: Result | None
    """The next better one, the baseline among them."""

    @property
    def estimated(self) -> bool:
        """Whether the time is not that of the challenge's machine."""
        return self.scored.runtime_source == "measured"

    @property
    def needed(self) -> dict[str, float | None]:
        """What each figure alone would have to be."""
        return needed(self.figures, self.to_pass.score) if self.to_pass else {}


def check(networks: Mapping[str, nn.Module]) -> None:
    """Raise `DscsrError` for a network that the challenge does not take: it is one of RGB images, ×4."""
    for name, network in networks.items():
        side = size_requirements(network).fit(PROBE_SIDE)
        channels, shape = try_channels(network, side)
        if (channels, *shape[1:]) != (3, 3, 4 * side, 4 * side):
            raise DscsrError(
                "RGB networks of scale 4 for --leaderboard, as the challenge has them",
                f"`{name}`, which makes {'×'.join(map(str, shape[1:]))} of {channels}×{side}×{side}",
                "Leave it or --leaderboard out.",
            )


def rank_of(value: float) -> int:
    """The place that a score would take among the submissions."""
    return 1 + sum(result.score < value for result in RESULTS)


def needed(figures: Mapping[str, float], target: float) -> dict[str, float | None]:
    """What each figure alone would have to be for a score of ``target``; None where not even zero is enough.

    Args:
        figures: As `score` takes them, by its names.
        target: The score, of 2026.
    """
    found: dict[str, float | None] = {}
    for key, (_, base, weight, *_) in _TERMS.items():
        others = score(**{**figures, key: 0.0}, year=2026) - weight
        share = (target - others) / weight
        found[key] = base / 2 * math.log(share) if share >= 1 else None
    return found


def standings(profile: Profile, given: Given | None = None) -> dict[str, Standing]:
    """By name; without networks whose time is missing, or is not to be compared with the baseline's."""
    found = {}
    for name, measured in profile.networks.items():
        scored = scores(profile, name, given).get(2026)
        if scored is None or not scored.comparable:
            continue
        time = scored.runtime_ms / scored.baseline_ms * _BASE.runtime_ms
        figures = {"runtime_ms": time, "flops": measured.flops_256, "parameters": measured.complexity.parameters}
        better = [result for result in _ALL if result.score < scored.score]
        to_pass = max(better, key=lambda result: result.score, default=None)
        ranks = rank_of(scored.low), rank_of(scored.high)
        found[name] = Standing(scored, figures, rank_of(scored.score), ranks, to_pass)
    return found


def as_dict(profile: Profile, given: Given | None = None) -> dict[str, Any]:
    """For JSON: the official results, and how one's own stand to them; scores and PSNR of one's own are elsewhere."""
    official = [
        {
            **result._asdict(),
            "score": result.score,
            "rank": None if result is BASELINE_RESULT else rank_of(result.score),
        }
        for result in _ALL
    ]
    own = {
        name: {
            "rank": one.rank,
            "ranks_within_spread": one.ranks,
            "official_runtime_ms": one.figures["runtime_ms"],
            "runtime_is_estimated": one.estimated,
            "to_pass": one.to_pass and {"name": one.to_pass.name, "score": one.to_pass.score, **one.needed},
        }
        for name, one in standings(profile, given).items()
    }
    return {"source": SOURCE, "official": official, "networks": own}


def table(profile: Profile, psnr: Mapping[str, float], given: Given | None = None) -> str:
    """Official results and one's own, by score; the way to the next place; what the figures mean."""
    found = standings(profile, given)
    rows = [(result.score, _official_row(result)) for result in _ALL]
    rows += [(one.scored.score, _own_row(profile, name, one, psnr)) for name, one in found.items()]
    head = ["network", "rank", "runtime", "FLOPs", "params", "activations", "convs", "PSNR valid/test", "score"]
    parts = [
        "NTIRE 2026, efficient SR, ×4: the official results, and yours (>)",
        aligned([head, *(row for _, row in sorted(rows, key=lambda each: each[0]))], 1),
        "\n".join(wrapped(f"{name}: {_way(one)}", "  ") for name, one in found.items()),
        "\n".join(wrapped(note, "  ") for note in _notes(profile, found, psnr)),
    ]
    return "\n\n".join(part for part in parts if part)


def _official_row(result: Result) -> list[str]:
    return [
        result.name,
        "baseline" if result is BASELINE_RESULT else str(rank_of(result.score)),
        f"{result.runtime_ms:.2f} ms",
        ("†" if result.name == "SPANV2" else "") + f"{result.flops_g:.2f} G",
        f"{result.parameters_m:.3f} M",
        f"{result.activations_m:.2f} M",
        str(result.convolutions),
        f"{result.psnr_valid:.2f} / {result.psnr_test:.2f}",
        f"{result.score:.2f}",
    ]


def _own_row(profile: Profile, name: str, one: Standing, psnr: Mapping[str, float]) -> list[str]:
    complexity, decibel = profile.networks[name].complexity, psnr_of(profile, name, psnr)
    at_256 = (profile.settings.height, profile.settings.width) == (256, 256)
    return [
        f"> {name}",
        str(one.rank),
        ("~" if one.estimated else "") + f"{one.figures['runtime_ms']:.2f} ms",
        f"{one.figures['flops'] / 1e9:.2f} G",
        f"{complexity.parameters / 1e6:.3f} M",
        f"{complexity.activations / 1e6:.2f} M" if at_256 else "",
        str(complexity.convolutions),
        "not measured" if decibel is None else ("‡" if decibel < LEAST_VALID else "") + f"{decibel:.2f}",
        score_in_words(one.scored),
    ]


def _way(one: Standing) -> str:
    """The rank, and what would have to shrink by how much for the next one."""
    rank = f"rank {one.rank}" + ("" if len(set(one.ranks)) == 1 else f" ({one.ranks[0]} to {one.ranks[1]} by its ±)")
    if one.to_pass is None:
        return f"{rank}; nothing official is better."
    ways, vain = [], []
    for key, value in one.needed.items():
        words, _, _, unit, size, digits = _TERMS[key]
        if value is None:
            vain.append(words)
            continue
        now, then = one.figures[key] / size, math.floor(value / size * 10**digits) / 10**digits
        change = 100 * (1 - value / one.figures[key])
        ways.append(f"{words} {now:.{digits}f} → {then:.{digits}f} {unit} (−{change:.1f} %)")
    parts = [", or ".join(ways)] if ways else []
    parts += [f"{' or '.join(vain)} alone would not do, even at 0"] if vain else []
    return f"{rank}. To pass {one.to_pass.name} ({one.to_pass.score:.2f}): {'; '.join(parts)}."


def _notes(profile: Profile, found: Mapping[str, Standing], psnr: Mapping[str, float]) -> Iterator[str]:
    winner, variant = RESULTS[0], profile.settings.variants[0]
    true = score(winner.runtime_ms, SPANV2_FLOPS, winner.parameters_m * 1e6)
    yield f"Official: {SOURCE}."
    yield (
        f"† As published; {winner.parameters_m} M parameters make about {SPANV2_FLOPS / 1e9} G at 256×256, with which "
        f"{winner.name} would score {true:.2f}."
    )
    if any(one.estimated for one in found.values()):
        kind = "CPU" if profile.machine["device"] == "CPU" else "GPU"
        yield (
            f"~ An estimate, made on this machine's {kind}: time ({variant}) over that of {_BASE.name} here, times its "
            f"official {_BASE.runtime_ms} ms. On the challenge's A6000 that ratio is another."
        )
    known = {name: psnr_of(profile, name, psnr) for name in found}
    unknown = [name for name, value in known.items() if value is None]
    yield (
        f"The challenge ranks only what has {LEAST_VALID:.2f} / {LEAST_TEST:.2f} dB or more on its images, "
        "DIV2K_LSDIR_valid / _test, on RGB."
        + (" Yours are of --data, or given." if len(unknown) < len(known) else "")
        + (" ‡ is below." if any(value is not None and value < LEAST_VALID for value in known.values()) else "")
        + (f" Not measured: {', '.join(unknown)}; add --data HR LR." if unknown else "")
    )
    for name in (name for name in profile.networks if name not in found):
        yield f"{name} has no rank: its time, or that of {_BASE.name}, could not be measured."
