"""Names of what belongs to one width."""

from dscsr_model.training.widths import label, validated_widths


def test_names():
    assert [label(width) for width in (0.25, 1, 1.0)] == ["w0.25", "w1.0", "w1.0"]


def test_which_widths_are_validated():
    assert validated_widths(None, (0.5, 0.25), teacher=False) == (0.25, 0.5)
    assert validated_widths(None, (0.5, 0.25), teacher=True) == (0.25, 0.5, 1.0)
    assert validated_widths([1, 0.5, 1.0], (0.5, 0.25), teacher=False) == (0.5, 1.0)
