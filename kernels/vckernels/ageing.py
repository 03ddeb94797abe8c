"""Age a zone: blocks of a recorded mix arrive, live as long as recorded ones did, and die.

Arrivals are drawn from the recorded allocations themselves. Lifetimes come as quantile tables; what outlived the
recording gets a lifetime from its tail. Deaths wait in a wheel: a stack of blocks for each tick of the clock, so
an arrival and a death are constant work. A stack is made of rows of 15 blocks: which blocks die next is known well
before they do, where links from block to block would be a chain of cache misses. Only ``allocate`` and ``give_back``
touch the allocator.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vckernels.buddy import ALLOCATED, Buddy, first_block, free_frames, give_back, usable_frames
from vckernels.claim import MODE_NORMAL, allocate
from vckernels.jit import kernel, unsigned
from vckernels.replay import ZONE_DRAIN, ZONE_FALLBACK, ZONE_FREE, ZONE_REMOVAL, Stream
from vckernels.vector import fetch_ahead

NOBODY = -1
ROW = 16
"""Places of a row: the first holds the last place of the row below it, ``NOBODY`` for none, the others blocks."""
AHEAD = 4
"""So many deaths before a block's own, its lines are asked for."""
LOOK_AHEAD = 16
"""So many events of a recording before an event's own, its lines are asked for."""
OUTLIVED = -1
"""A quantile beyond what the recording saw: the tail decides."""


class Clock(IntEnum):
    """Index into :attr:`Population.clock`."""

    TICK = 0
    ARRIVALS = 1
    DEATHS = 2
    FAILURES = 3
    """Arrivals that found no block; they are dropped."""
    OWED = 4
    """Parts of an arrival (of 2**20) that are due."""
    PROMISED = 5
    """Frames in large blocks that will die within the recording's window of their birth."""
    ROWS = 6
    """Rows that have been in use."""
    SPARE = 7
    """First place of a row that is in use no more, -1 for none; its first place names the next."""


class Population(NamedTuple):
    """Blocks that will die, and the law by which new ones live.

    Attributes
    ----------
    wheel : int32[ticks]
        Place of the block that dies first in each tick, ``NOBODY`` if none.
    places : int32[rows * ROW]
        Rows of blocks that die in one tick, by first frame.
    promised : int32[ticks]
        Frames of :attr:`Clock.PROMISED` that die in each tick.
    arrivals : int8[n]
        Class of every recorded allocation.
    orders, migratetypes : int8[classes]
    quantiles : int64[classes or more, q]
        Lifetimes in ticks at q equal steps of probability, ascending; ``OUTLIVED`` beyond the recording.
    tail : int64[2]
        Ticks from which and to which the tail is spread, evenly in the logarithm; an end of 0 means never.
    clock : int64[len(Clock)]
    """

    wheel: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    promised: npt.NDArray[np.int32]
    arrivals: npt.NDArray[np.int8]
    orders: npt.NDArray[np.int8]
    migratetypes: npt.NDArray[np.int8]
    quantiles: npt.NDArray[np.int64]
    tail: npt.NDArray[np.int64]
    clock: npt.NDArray[np.int64]


class Bounds(NamedTuple):
    """When to stop: at the first tick in which one of these holds."""

    promised_at_most: int
    """Free frames in blocks of ``order`` or more, and those that short-lived blocks of that size will give back."""
    usable_at_least: int
    """Free frames in blocks of ``order`` or more."""
    free_at_most: int
    free_at_least: int
    order: int
    met_free_low: int
    """Or as soon as the free frames lie between these two, and usable ones between these parts of 2**20 of them."""
    met_free_high: int
    met_usable_low: int
    met_usable_high: int


@kernel
def measure_lifetimes(
    stream: Stream,
    times: npt.NDArray[np.int32],
    end: int,
    born: npt.NDArray[np.int32],
    lifetimes: npt.NDArray[np.int32],
    ended: npt.NDArray[np.int8],
    first_deaths: npt.NDArray[np.int32],
) -> int:
    """Measure how long recorded blocks lived; return how many events were allocations.

    Parameters
    ----------
    stream : Stream
        Read.
    times : int32[n]
        Time of each event, any unit.
    end : int
        Time at which the recording ends.
    born : int32[frames]
        Scratch, overwritten: the event that allocated each first frame.
    lifetimes : int32[n]
        Written for each allocation event: time to the free of its first frame, or to the end; -1 for other events.
    ended : int8[n]
        Written: 1 where that free was seen, 0 where the recording ended first (a censored lifetime).
    first_deaths : int32[frames]
        Written: time of the first free of each frame allocated before the recording, -1 where none was seen or
        the frame was first allocated.
    """
    unseen = np.int64(-1)
    free_again = np.int64(-2)
    born[:] = unseen
    first_deaths[:] = -1
    allocations = 0
    events = len(times)
    for i in range(events):
        later = stream.frame[unsigned(min(i + LOOK_AHEAD, events - 1))]
        fetch_ahead(born, later)
        fetch_ahead(first_deaths, later)
        lifetimes[i] = -1
        ended[i] = 0
        frame = stream.frame[i]
        order = np.int64(stream.order[i])
        operation = stream.operation[i]
        if operation == ZONE_REMOVAL or (operation == ZONE_FALLBACK and np.int64(stream.extra[i]) & 15 >= 9):
            born[frame] = i
            lifetimes[i] = end - times[i]
            allocations += 1
            for inside in range(frame + 1, frame + (1 << order)):
                born[inside] = free_again
        elif operation == ZONE_FREE or operation == ZONE_DRAIN:
            for inside in range(frame, frame + (1 << order)):
                birth = born[inside]
                if birth >= 0:
                    lifetimes[birth] = times[i] - times[birth]
                    ended[birth] = 1
                elif birth == unseen:
                    first_deaths[inside] = times[i]
                born[inside] = free_again
    return allocations


@kernel(inline=True)
def _draw_lifetime(population: Population, start: int, stop: int, kind: int, rng: np.random.Generator) -> int:
    """Return a lifetime in ticks, -1 for never; ``start`` and ``stop`` are the tail's, read once for all."""
    steps = population.quantiles.shape[1]
    lifetime = population.quantiles[kind, np.int64(rng.random() * steps)]
    if lifetime != OUTLIVED:
        return lifetime
    if stop <= start:
        return -1
    return np.int64(start * math.exp(rng.random() * math.log(stop / start)))


@kernel(inline=True)
def _schedule(population: Population, frame: int, lifetime: int) -> None:
    """Put a block on the stack of the tick in which it dies, if it does."""
    clock = population.clock
    tick = clock[Clock.TICK] + max(lifetime, 1)
    if lifetime < 0 or tick >= len(population.wheel):
        return
    place = np.int64(population.wheel[unsigned(tick)]) + 1
    if place & (ROW - 1) == 0:
        below = place - 1
        place = clock[Clock.SPARE]
        if place >= 0:
            clock[Clock.SPARE] = population.places[unsigned(place)]
        else:
            place = clock[Clock.ROWS] * ROW
            clock[Clock.ROWS] += 1
        population.places[unsigned(place)] = below
        place += 1
    population.places[unsigned(place)] = frame
    population.wheel[unsigned(tick)] = place


@kernel(inline=True)
def _unstack(population: Population, place: int) -> int:
    """Return the place below one whose block has died, ``NOBODY`` for none; a row that is empty is spare."""
    place -= 1
    if place & (ROW - 1) == 0:
        below = np.int64(population.places[unsigned(place)])
        population.places[unsigned(place)] = population.clock[Clock.SPARE]
        population.clock[Clock.SPARE] = place
        place = below
    return place


@kernel(inline=True)
def _fetch_block(buddy: Buddy, frame: int) -> None:
    """Ask for the lines that taking or freeing a block needs."""
    fetch_ahead(buddy.state, frame)
    fetch_ahead(buddy.next, frame)
    fetch_ahead(buddy.prev, frame)


def new_population(
    frames: int,
    ticks: int,
    arrivals: npt.NDArray[np.int8],
    orders: npt.NDArray[np.int8],
    migratetypes: npt.NDArray[np.int8],
    quantiles: npt.NDArray[np.int64],
    tail: tuple[int, int],
) -> Population:
    """Return a population of no blocks for a zone of ``frames`` and a wheel of ``ticks``; see :class:`Population`."""
    # Each block is on one stack, and each stack has one row that is not full.
    rows = -(-frames // (ROW - 1)) + min(frames, ticks)
    clock = np.zeros(len(Clock), np.int64)
    clock[Clock.SPARE] = NOBODY
    return Population(
        wheel=np.full(ticks, NOBODY, np.int32),
        places=np.empty(rows * ROW, np.int32),
        promised=np.zeros(ticks, np.int32),
        arrivals=arrivals,
        orders=orders,
        migratetypes=migratetypes,
        quantiles=quantiles,
        tail=np.array(tail, np.int64),
        clock=clock,
    )


@kernel
def settle(
    population: Population, frames: npt.NDArray[np.int64], kinds: npt.NDArray[np.int64], rng: np.random.Generator
) -> None:
    """Give blocks that are allocated already (first frames int64[n]) lifetimes from now on (rows of quantiles)."""
    start, stop = population.tail[0], population.tail[1]
    for i in range(len(frames)):
        _schedule(population, frames[i], _draw_lifetime(population, start, stop, kinds[i], rng))


@kernel
def age(
    population: Population,
    buddy: Buddy,
    rng: np.random.Generator,
    rate: int,
    replaced: int,
    ticks: int,
    bounds: Bounds,
) -> bool:
    """Let time pass until a bound holds or ``ticks`` are over; return whether a bound holds.

    Parameters
    ----------
    population : Population
        Mutated.
    buddy : Buddy
        Mutated.
    rng : numpy.random.Generator
        Advanced.
    rate : int
        Arrivals in 2**20 ticks.
    replaced : int
        Of 2**20 deaths, how many are followed by an arrival on top of that.
    ticks : int
        Most ticks to pass; the wheel's end is the end as well.
    bounds : Bounds
        Read.
    """
    clock = population.clock
    start, stop = population.tail[0], population.tail[1]
    for _ in range(ticks):
        usable = usable_frames(buddy, bounds.order)
        free = free_frames(buddy)
        if usable + clock[Clock.PROMISED] <= bounds.promised_at_most or usable >= bounds.usable_at_least:
            return True
        if free <= bounds.free_at_most or free >= bounds.free_at_least:
            return True
        if bounds.met_free_low <= free <= bounds.met_free_high:
            share = (usable << 20) // max(free, 1)
            if bounds.met_usable_low <= share <= bounds.met_usable_high:
                return True
        if clock[Clock.TICK] + 1 >= len(population.wheel):
            return False
        clock[Clock.TICK] += 1
        tick = clock[Clock.TICK]
        place = np.int64(population.wheel[tick])
        population.wheel[tick] = NOBODY
        clock[Clock.PROMISED] -= population.promised[tick]
        while place != NOBODY:
            frame = np.int64(population.places[unsigned(place)])
            if place & (ROW - 1) > AHEAD:
                _fetch_block(buddy, np.int64(population.places[unsigned(place - AHEAD)]))
            place = _unstack(population, place)
            state = np.int64(buddy.state[unsigned(frame)])
            if state >= ALLOCATED:
                give_back(buddy, frame, state & 15)
                clock[Clock.DEATHS] += 1
                clock[Clock.OWED] += replaced
        clock[Clock.OWED] += rate
        due = clock[Clock.OWED] >> 20
        clock[Clock.OWED] -= due << 20
        for _ in range(due):
            kind = np.int64(population.arrivals[np.int64(rng.random() * len(population.arrivals))])
            order = np.int64(population.orders[kind])
            migratetype = np.int64(population.migratetypes[kind])
            lifetime = _draw_lifetime(population, start, stop, kind, rng)
            fetch_ahead(population.wheel, tick + lifetime)
            frame, _ = allocate(buddy, order, migratetype, 0, MODE_NORMAL)
            clock[Clock.ARRIVALS] += 1
            if frame < 0:
                clock[Clock.FAILURES] += 1
                continue
            # Most requests are alike, so that this is the next one's.
            _fetch_block(buddy, first_block(buddy, order, migratetype))
            _schedule(population, frame, lifetime)
            if order >= bounds.order and 0 <= lifetime <= population.tail[0]:
                death = tick + max(lifetime, 1)
                if death < len(population.promised):
                    population.promised[death] += 1 << order
                    clock[Clock.PROMISED] += 1 << order
    return False
