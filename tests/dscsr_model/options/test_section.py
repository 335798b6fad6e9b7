"""A section is parsed once: strict types, defaults, and errors that say what was expected."""

from collections import OrderedDict

from dscsr_model.options.sections import Options, TrainSection, ValSection


def test_defaults_and_keys_of_others():
    train = TrainSection.parse(OrderedDict(total_iter=5e3, optim_g={"type": 3}, theirs=1))
    assert (train.total_iter, train.precision, train.accumulate_steps) == (5000, "fp32", 1)
    assert ValSection.parse(None).tile_overlap == 32


def test_every_option_says_what_it_is():
    for section in (Options, *filter(None, map(Options.inside, Options.declared()))):
        for key in section.declared():
            assert section.about(key), key
            assert section.words(key) != "one of ", key
