"""Programs go on using their pages: what is used stays, what was taken comes back, at a price that is told apart."""

from __future__ import annotations

import numpy as np
import pytest

import vclab
from tests.vclab.test_movable import MOVABLE, check, reached
from vckernels.causes import Cause
from vckernels.pages import ACTIVE, ANONYMOUS
from vclab import ConfigurationError
from vclab.gfp import GFP_KERNEL
from vclab.movable import PageMix


def crowded(swap: str = "0", anonymous: float = 0.0, free: int = 1500) -> vclab.System:
    """Return a machine whose memory is pages of one frame nearly up to the last."""
    system = vclab.System(memory="64MiB", levels=4)
    while system.memory.zone.free_frames > free:
        system.memory.allocate(0, MOVABLE)
    system.populate(PageMix(anonymous=anonymous, active=0.3, dirty=0.0), swap=swap)
    return system


def pages_of(system: vclab.System) -> np.ndarray:
    """Return the numbers of all pages."""
    assert system.movable is not None
    return np.arange(system.movable.region.used)


def test_pages_in_memory_are_found_there_and_marked() -> None:
    system = crowded()
    owners = pages_of(system)
    use = system.use_pages(owners[:100])
    assert (use.resident, use.refaults, use.unserved, use.gone) == (100, 0, 0, 0)
    movable = system.movable
    assert movable is not None
    used = [frame for owner, frame in reached(system).items() if owner < 100]
    assert (movable.pages.flags[np.array(used) - movable.zone.first_frame] & 8 != 0).all()
    assert system.ledger.counts[Cause.REFAULT] == 0


@pytest.mark.parametrize(("swap", "anonymous"), [("0", 0.0), ("32MiB", 1.0)])
def test_what_was_taken_comes_back_where_it_was(swap: str, anonymous: float) -> None:
    system = crowded(swap, anonymous)
    movable = system.movable
    assert movable is not None
    before = reached(system)
    for _ in range(3000):
        assert system.memory.allocate(0, GFP_KERNEL) >= 0
    gone = sorted(set(before) - set(reached(system)))
    assert len(gone) > 1000
    # The latest evictions are within what the active list would have made room for.
    shadows = movable.reclaim_state.shadows
    latest = sorted(gone, key=lambda owner: int(shadows[owner]))[-20:]
    use = system.use_pages(np.array([*latest, *latest]))
    assert (use.refaults, use.unserved, use.gone) == (20, 0, 0)
    at = reached(system)
    flags = movable.pages.flags[np.array([at[owner] for owner in latest]) - movable.zone.first_frame]
    assert (flags & ACTIVE != 0).all()
    assert (flags & ANONYMOUS != 0).all() == (anonymous > 0)
    counts = system.ledger.counts
    assert counts[Cause.REFAULT] == counts[Cause.WORKINGSET_REFAULT] == 20
    assert system.ledger.device_ns["refault"] == 20 * system.linux.devices.refault_ns.value
    check(system)


def test_a_working_set_larger_than_memory_thrashes_and_one_that_fits_does_not() -> None:
    """Uses in turn: of all pages there were every one that is missing takes another's place; of half of them none."""
    shares = {}
    for part in (0.5, 1.0):
        system = crowded()
        owners = pages_of(system)
        wanted = owners[: int(part * len(owners))]
        for _ in range(3000):
            assert system.memory.allocate(0, GFP_KERNEL) >= 0
            if _ % 100 == 0:
                system.use_pages(wanted)
        before = int(system.ledger.counts[Cause.REFAULT])
        for _ in range(3):
            system.use_pages(wanted)
        shares[part] = int(system.ledger.counts[Cause.REFAULT]) - before
        check(system)
    assert shares[0.5] == 0
    assert shares[1.0] > 1000


def test_numbers_without_a_page_and_machines_without_pages() -> None:
    system = crowded()
    movable = system.movable
    assert movable is not None
    movable.release(np.array([reached(system)[5]]))
    assert system.use_pages([5]) == (0, 0, 0, 1)
    for wrong in (-1, movable.region.used):
        with pytest.raises(ConfigurationError, match="no such pages"):
            system.use_pages([wrong])
    with pytest.raises(ConfigurationError, match="populate"):
        vclab.System(memory="16MiB", levels=4).use_pages([0])
