from dscsr_arch.words import every, many


def test_counts_and_their_plurals():
    assert [many(count, "image") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [many(2, thing) for thing in ("batch", "epoch", "process")] == ["2 batches", "2 epochs", "2 processes"]
    assert (every(1, "iteration"), every(2000, "iteration")) == ("every iteration", "every 2,000 iterations")
