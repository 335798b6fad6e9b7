"""Option files changed at random: the check never crashes, and what it accepts never ends in a traceback."""

from collections import Counter

import option_fuzz
import pytest

import dscsr_model


def failures(folder, names, seeds):
    """What was printed where a run failed, by seed; and how often files ran and were refused."""
    dscsr_model.register()
    bases = option_fuzz.bases(folder, names)
    case = folder / "case"
    case.mkdir()
    failed, counts = {}, Counter()
    for seed in seeds:
        phase, options = bases[seed % len(bases)]
        (case / "opt.yml").write_text(option_fuzz.mutant(options, seed))
        result, said = option_fuzz.outcome(case / "opt.yml", phase)
        counts[result] += 1
        if result == "failed":
            failed[seed] = said[-3000:]
    return failed, counts


def test_a_few_changed_files(tmp_path):
    failed, counts = failures(tmp_path, ["train_edsr_bsds400", "test_span_x4"], range(8))
    assert not failed
    assert counts["ran"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_many_changed_files(tmp_path, part):
    failed, counts = failures(tmp_path, option_fuzz.BASES, range(part * 150, (part + 1) * 150))
    assert not failed, "\n\n".join(f"seed {seed}:\n{said}" for seed, said in failed.items())
    assert min(counts["ran"], counts["refused"]) > 15
