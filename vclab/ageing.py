"""Ageing: fill memory with a recorded mix and let it die by recorded lifetimes until it is as fragmented as asked.

Lifetimes are censored: most recorded blocks outlive the recording. Kaplan-Meier curves per order and migratetype
use what was seen; what lies beyond is drawn from a stated tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vckernels import ageing as kernels
from vckernels.ageing import Bounds, Clock
from vckernels.buddy import ALLOCATED, MAX_ORDER, free_frames, usable_frames
from vckernels.claim import FALLBACKS
from vclab import recordings
from vclab.errors import ConfigurationError, FragmentationNotReached
from vclab.memory import Zone
from vclab.recorded import kernel_stream, span

TICK_US = 10_000
#: Ends of the tail, in seconds; 0: what outlives the recording never dies.
TAILS = {"never": 0, "hour": 3600, "day": 86400}
TOLERANCE = 0.01
QUANTILES = 4096
#: Arrivals for each death while memory is let run empty: some, so that holes are refilled.
REPLACED = 0.1
MAX_ROUNDS = 40
_NEVER = 1 << 60


@dataclass(frozen=True)
class Law:
    """How recorded blocks come and go.

    Attributes
    ----------
    arrivals : int8[n]
        Class of each recorded allocation.
    orders, migratetypes : int8[classes]
    quantiles : int64[classes + 11, QUANTILES]
        Lifetimes in ticks, -1 beyond the recording. The last eleven are what was left of the lives of blocks that
        were there when the recording began, by order.
    rate : float
        Allocations a tick and recorded frame.
    window : int
        Ticks that the recording lasted.
    censored : float
        Share of recorded allocations whose end was not seen.
    """

    arrivals: npt.NDArray[np.int8]
    orders: npt.NDArray[np.int8]
    migratetypes: npt.NDArray[np.int8]
    quantiles: npt.NDArray[np.int64]
    rate: float
    window: int
    censored: float


def kaplan_meier(lifetimes: npt.NDArray[np.int32], ended: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.int64]:
    """Return the lifetimes at ``steps`` equal steps of probability, -1 beyond what was seen.

    Parameters
    ----------
    lifetimes : int32[n]
        Ticks until death, or until observation ended.
    ended : bool[n]
        Death was seen; False is a censored lifetime.
    steps : int
        Length of the result.

    Notes
    -----
    Kaplan and Meier 1958. Deaths and censorings in one tick: deaths come first.
    """
    deaths = np.bincount(lifetimes[ended], minlength=1)
    leaving = np.bincount(lifetimes, minlength=len(deaths))
    deaths = np.pad(deaths, (0, len(leaving) - len(deaths)))
    at_risk = len(lifetimes) - np.concatenate([[0], np.cumsum(leaving)[:-1]])
    survival = np.cumprod(1 - deaths / np.maximum(at_risk, 1))
    died_by = 1 - survival
    middle = (np.arange(steps) + 0.5) / steps
    ticks = np.searchsorted(died_by, middle)
    return np.where(ticks < len(died_by), ticks, kernels.OUTLIVED).astype(np.int64)


@lru_cache(maxsize=4)
def learn(source: str) -> Law:
    """Return the law of a recording's zone-level stream, by the recording's name or path."""
    recording = recordings.load(source)
    stream = kernel_stream(recording)
    if not len(stream.frame):
        raise ConfigurationError(f"recording {source} has no events to age by; use another source")
    frames = span(recording)
    times = (recording.stream.time_us // TICK_US).astype(np.int32)
    end = int(times[-1]) + 1
    count = len(times)
    lifetimes = np.empty(count, np.int32)
    ended = np.empty(count, np.int8)
    first_deaths = np.empty(frames, np.int32)
    kernels.measure_lifetimes(stream, times, end, np.empty(frames, np.int32), lifetimes, ended, first_deaths)
    # The types that requests can have; the kernel's special ones serve its own reserves.
    requests = (lifetimes >= 0) & (stream.migratetype >= 0) & (stream.migratetype < len(FALLBACKS))
    if not requests.any():
        raise ConfigurationError(f"recording {source} has no allocations to age by; use another source")
    keys = (stream.order * 8 + stream.migratetype.view(np.uint8))[requests]
    lifetimes, seen = lifetimes[requests], ended[requests] == 1
    classes = np.flatnonzero(np.bincount(keys))
    number_of = np.zeros(classes[-1] + 1, np.int8)
    number_of[classes] = np.arange(len(classes))
    arrivals = number_of[keys]
    kinds = [arrivals == kind for kind in range(len(classes))]
    curves = [kaplan_meier(lifetimes[kind], seen[kind], QUANTILES) for kind in kinds]
    # What was allocated before is a class of its own by order: its age is unknown, its deaths in the window are not.
    old = recording.allocated
    deaths = first_deaths[old.frames - recording.first_frame]
    for order in range(MAX_ORDER + 1):
        chosen = deaths[old.orders == order]
        if len(chosen):
            curves.append(kaplan_meier(np.where(chosen >= 0, chosen, end), chosen >= 0, QUANTILES))
        else:
            curves.append(curves[-1])
    return Law(
        arrivals=arrivals,
        orders=(classes // 8).astype(np.int8),
        migratetypes=(classes % 8).astype(np.int8),
        quantiles=np.array(curves),
        rate=len(arrivals) / end / frames,
        window=end,
        censored=1 - float(seen.mean()),
    )


@dataclass(frozen=True)
class Goal:
    """How fragmented a zone is to be.

    Attributes
    ----------
    order : int
        The order whose unusable free index is meant.
    unusable, free : float
        Index, and share of ``managed``, 0 to 1.
    managed : int
        Frames of the zone that are the allocator's.
    """

    order: int
    unusable: float
    free: float
    managed: int

    @property
    def free_frames(self) -> int:
        """Frames that are to be free."""
        return int(self.free * self.managed)

    @property
    def usable_frames(self) -> int:
        """Free frames that are to lie in blocks of the order or more."""
        return int((1 - self.unusable) * self.free_frames)


class Ageing:
    """One zone growing old.

    Parameters
    ----------
    zone : Zone
        Mutated, by allocation and free only.
    law : Law
    rng : numpy.random.Generator
        Advanced.
    tail : str
        How long what outlived the recording lives: a key of ``TAILS``.
    """

    def __init__(self, zone: Zone, law: Law, rng: np.random.Generator, tail: str = "hour") -> None:
        if tail not in TAILS:
            raise ConfigurationError(f"tail {tail!r} does not exist; there are {', '.join(TAILS)}")
        self.zone = zone
        self.law = law
        self.rng = rng
        ticks_per_second = 1_000_000 // TICK_US
        end = TAILS[tail] * ticks_per_second
        self.population = kernels.new_population(
            zone.frames,
            max(end, 4 * law.window) + 1,
            law.arrivals,
            law.orders,
            law.migratetypes,
            law.quantiles,
            (law.window, end),
        )

    def settle(self, keep: npt.NDArray[np.bool_] | None = None) -> None:
        """Give what is allocated already a remaining lifetime; blocks that start where ``keep`` is set never die."""
        old = self.zone.buddy.state >= ALLOCATED
        if keep is not None:
            old &= ~keep
        frames = np.flatnonzero(old)
        kinds = len(self.law.orders) + (self.zone.buddy.state[frames] & 15).astype(np.int64)
        kernels.settle(self.population, frames, kinds, self.rng)

    def _until(
        self,
        goal: Goal,
        filling: bool,
        promised_at_most: int = -1,
        usable_at_least: int = _NEVER,
        free_at_most: int = -1,
        free_at_least: int = _NEVER,
    ) -> bool:
        """Let time pass until one bound (frames) holds or the goal is met; False if the wheel of time ends first.

        While ``filling`` blocks arrive at the recorded rate, else only some for those that die.
        """
        near = TOLERANCE / 2
        whole = 1 << 20
        bounds = Bounds(
            promised_at_most,
            usable_at_least,
            free_at_most,
            free_at_least,
            goal.order,
            int((goal.free - near) * goal.managed),
            int((goal.free + near) * goal.managed),
            int((1 - goal.unusable - near) * whole),
            int((1 - goal.unusable + near) * whole),
        )
        rate = int(self.law.rate * self.zone.frames * whole) if filling else 0
        replaced = 0 if filling else int(REPLACED * whole)
        ticks = len(self.population.wheel)
        return bool(kernels.age(self.population, self.zone.buddy, self.rng, rate, replaced, ticks, bounds))

    def pass_operations(self, operations: int, low: float = 0.3, high: float = 0.7) -> None:
        """Age by at least so many arrivals and deaths: fill to a free share ``low``, let run empty to ``high``, again.

        Raises
        ------
        ConfigurationError
            If the wheel of time ends first.
        """
        buddy = self.zone.buddy
        managed = self.zone.managed
        filling = True
        clock = self.population.clock
        started = int(clock[Clock.ARRIVALS] + clock[Clock.DEATHS])
        per_tick = max(1, int(self.law.rate * self.zone.frames))
        bounds = Bounds(-1, _NEVER, int(low * managed), _NEVER, 0, -1, -1, -1, -1)
        emptying = bounds._replace(free_at_most=-1, free_at_least=int(high * managed))
        while (left := operations - int(clock[Clock.ARRIVALS] + clock[Clock.DEATHS]) + started) > 0:
            rate = int(self.law.rate * self.zone.frames * (1 << 20)) if filling else 0
            replaced = 0 if filling else int(REPLACED * (1 << 20))
            ticks = max(1, left // (2 * per_tick))
            limits = bounds if filling else emptying
            if kernels.age(self.population, buddy, self.rng, rate, replaced, ticks, limits):
                filling = not filling
            elif clock[Clock.TICK] + 1 >= len(self.population.wheel):
                raise ConfigurationError(
                    f"simulated time ends after {operations - left:,} of {operations:,} operations on a machine of "
                    "this size; ask for fewer, or a longer tail"
                )

    @property
    def summary(self) -> dict[str, float]:
        """What ageing did: simulated seconds, arrivals, deaths, arrivals that found no block."""
        clock = self.population.clock
        return {
            "seconds": float(clock[Clock.TICK]) * TICK_US / 1e6,
            "arrivals": int(clock[Clock.ARRIVALS]),
            "deaths": int(clock[Clock.DEATHS]),
            "failures": int(clock[Clock.FAILURES]),
        }

    def reach(self, goal: Goal) -> None:
        """Age until index and free share hold together, each within 0.01.

        Raises
        ------
        FragmentationNotReached
            With the nearest index and free share.
        """
        buddy = self.zone.buddy
        best = (9.0, 1.0, 0.0)
        # Large blocks are quickly used up and hardly ever come back, so the goal is approached from above.
        slack = int(TOLERANCE * goal.free_frames)
        target = goal.usable_frames + slack // 2
        for _ in range(MAX_ROUNDS):
            free = int(free_frames(buddy))
            usable = int(usable_frames(buddy, goal.order))
            index = 1 - usable / free if free else 1.0
            miss = max(abs(index - goal.unusable), abs(free / goal.managed - goal.free))
            best = min(best, (miss, index, free / goal.managed))
            if miss <= TOLERANCE:
                return
            if usable > target:
                alive = self._until(goal, True, promised_at_most=target, free_at_most=goal.managed // 200)
                alive = alive and self._until(goal, False, free_at_least=goal.free_frames)
                # What deaths put together, and late arrivals took, on the way back is learned from each round.
                target = max(0, target - (int(usable_frames(buddy, goal.order)) - goal.usable_frames) // 2)
            elif free < goal.free_frames:
                alive = self._until(goal, False, free_at_least=goal.free_frames)
            elif usable >= goal.usable_frames:
                alive = self._until(goal, True, free_at_most=goal.free_frames)
            else:
                alive = self._until(goal, False, usable_at_least=goal.usable_frames + slack)
                alive = alive and self._until(goal, True, free_at_most=goal.free_frames)
            if not alive:
                break
        raise FragmentationNotReached(
            f"order {goal.order} never had {goal.unusable:.0%} of free memory unusable with {goal.free:.0%} of memory "
            f"free; nearest were {best[1]:.1%} and {best[2]:.1%} after {self.summary['arrivals']:,.0f} allocations; "
            "ask for a nearer goal, or another source",
            best=best[1],
            free=best[2],
        )
