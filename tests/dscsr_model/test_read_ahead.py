"""Reading ahead: in order, so far and no farther, and faults where their result would come."""

import threading

import pytest

from dscsr_model.read_ahead import read_ahead


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_so_many_are_loaded_beyond_the_one_in_use(ahead):
    begun = [threading.Event() for _ in range(6)]

    def load(item):
        begun[item].set()
        return -item

    for item, result in enumerate(read_ahead(load, range(6), ahead)):
        assert result == -item
        assert begun[min(5, item + ahead)].wait(timeout=30)
        assert not any(event.is_set() for event in begun[item + ahead + 1 :])


def test_a_fault_comes_in_its_place_and_nothing_is_loaded_after_the_end():
    loaded = []

    def load(item):
        loaded.append(item)
        return 6 / (2 - item)

    results = read_ahead(load, range(100))
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert loaded in ([0, 1, 2], [0, 1, 2, 3])
