"""What the processes of one training tell each other; a process alone tells itself."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

Something = TypeVar("Something")


def together() -> bool:
    """Whether this process is one of several that train together."""
    return distributed.is_available() and distributed.is_initialized()


def gathered(mine: Something) -> list[Something]:
    """What every rank has, in their order; all of them call this."""
    if not together():
        return [mine]
    everyones = [mine] * distributed.get_world_size()
    distributed.all_gather_object(everyones, mine)
    return everyones
