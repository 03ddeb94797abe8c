"""What each policy would pay on a recorded machine now: one request of each order, answered by the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vclab.errors import OutOfMemory
from vclab.gfp import GFP_VFALLBACK
from vclab.ledger import price_operations
from vclab.policies import policy_names
from vclab.system import System

#: Orders asked for: all that the fallback is for.
ORDERS = range(1, 11)
PHYSICAL, SMALLER, VIRTUAL, FAILED = "physical", "smaller block", "virtual", "failed"


@dataclass(frozen=True)
class Answer:
    """How one request ends.

    Attributes
    ----------
    policy : str
    order : int
    served : str
        ``physical``, ``smaller block``, ``virtual`` or ``failed``.
    nanoseconds, low, high : float
        What the kernel's work on it costs at the preset's prices, and at the ends of their ranges.
    """

    policy: str
    order: int
    served: str
    nanoseconds: float
    low: float
    high: float


def ask(system: System, policies: Sequence[str] = policy_names(), orders: Sequence[int] = ORDERS) -> list[Answer]:
    """Ask a machine for one page of each order under each policy, each time as it is now.

    Parameters
    ----------
    system : System
        Left as it is.
    policies : sequence of str
    orders : sequence of int
    """
    return [_ask(system.copy(policy=policy), policy, order) for policy in policies for order in orders]


def _ask(twin: System, policy: str, order: int) -> Answer:
    before = twin.ledger.counts.copy()
    try:
        page = twin.alloc_pages(order, GFP_VFALLBACK)
        served = VIRTUAL if page.is_virtual else SMALLER if page.order < order else PHYSICAL
    except OutOfMemory:
        served = FAILED
    counts = twin.ledger.counts - before
    price, low, high = (
        float(price_operations(counts, twin.linux, twin.cpu, bound).sum()) for bound in ("value", "low", "high")
    )
    return Answer(policy, order, served, price, low, high)


def snapshot_system(folder: Path, cpu: str, linux: str) -> System:
    """Return a machine in the state of a snapshot's folder.

    Raises
    ------
    RecordingError
        If the folder is none.
    ConfigurationError
        If there is no such preset.
    """
    return System(cpu=cpu, linux=linux, memory="recorded", recording=str(folder), policy=PHYSICAL)


def sentences(system: System, answers: Sequence[Answer]) -> list[str]:
    """Return the verdict in sentences: what is contiguous, who falls back, and what that costs."""
    by_request = {(answer.policy, answer.order): answer for answer in answers}
    orders = sorted({answer.order for answer in answers})
    contiguous = [order for order in orders if by_request[PHYSICAL, order].served == PHYSICAL]
    missing = [order for order in orders if order not in contiguous]
    zone = system.memory.zone
    lines = [
        f"Zone {zone.name}: {system.memory.free_share:.1%} of its frames are free, and "
        f"{system.unusable_free_index(9):.1%} of these lie in blocks too small for order 9 (2 MiB)."
    ]
    if not missing:
        lines.append(
            f"Orders {orders[0]} to {orders[-1]} are served physically contiguous now: nobody has to fall back."
        )
    elif contiguous:
        lines.append(f"Orders {_list(missing)} cannot be served physically contiguous now; {_list(contiguous)} can.")
    else:
        lines.append("No order can be served physically contiguous now.")
    for policy in dict.fromkeys(answer.policy for answer in answers):
        fallen = [order for order in missing if by_request[policy, order].served in (VIRTUAL, SMALLER)]
        if fallen and any(by_request[policy, order].served == PHYSICAL for order in contiguous):
            lines.append(f"{policy} falls back at orders {_list(fallen)}.")
    virtual = by_request.get(("always-virtual", 9))
    real = by_request[PHYSICAL, 9] if 9 in orders else None
    if virtual is not None and real is not None and virtual.served == VIRTUAL:
        line = f"A virtual page of order 9 takes {_time(virtual)} to allocate"
        if real.served == PHYSICAL:
            times = virtual.nanoseconds / real.nanoseconds
            line += f", {times:,.0f} times what a physical one takes ({_time(real)})"
        lines.append(line + ".")
    lines.append(
        f"One request each, by the model, on these free blocks; CPU {system.cpu.name} and Linux {system.linux.name} "
        "at the prices of their presets (in brackets: the range). Pageblocks of which no event tells the type count as "
        "movable."
    )
    return lines


def _time(answer: Answer) -> str:
    return f"{answer.nanoseconds / 1e3:,.2f} us [{answer.low / 1e3:,.2f} to {answer.high / 1e3:,.2f}]"


def _list(numbers: Sequence[int]) -> str:
    """Return numbers with runs of three and more named by their ends."""
    parts: list[str] = []
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            run = numbers[start:index]
            parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run]
            start = index
    return ", ".join(parts)
