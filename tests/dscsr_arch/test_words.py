from dscsr_arch.words import every, many


def test_counts_and_their_plurals():
    assert [many(count, "image") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert (many(1, "batch"), many(2, "batch"), many(2, "process")) == ("1 batch", "2 batches", "2 processes")
    assert (every(1, "iteration"), every(2000, "iteration")) == ("every iteration", "every 2,000 iterations")
