"""How all CPUs forget translations of the kernel's addresses: by interrupts, or by a broadcast of the hardware."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vckernels.causes import Cause
from vclab import presets
from vclab.errors import ConfigurationError
from vclab.mmu import Mmu
from vclab.presets import CpuPreset

MECHANISMS = ("ipi", "invlpgb")
#: Pages that one INVLPGB covers: CPUID leaf 8000_0008h, EDX, is the largest count less one; 7 on Zen 3.
BROADCAST_PAGES = 8
#: First year of AMD cores with INVLPGB: Zen 3 (AMD64 Architecture Programmer's Manual, volume 3, INVLPGB).
BROADCAST_SINCE = 2020


def check_mechanism(flush: str, cpu: CpuPreset) -> None:
    """Raise ``ConfigurationError`` where a CPU cannot flush so."""
    if flush not in MECHANISMS:
        raise ConfigurationError(f"flush={flush!r} does not exist; there are {', '.join(MECHANISMS)}")
    if flush == "invlpgb" and not _broadcasts(cpu):
        having = [name for name in presets.cpu_names() if _broadcasts(presets.cpu(name))]
        raise ConfigurationError(f"cpu {cpu.name} has no INVLPGB; presets that have it: {', '.join(having)}")


def _broadcasts(cpu: CpuPreset) -> bool:
    return cpu.vendor == "AMD" and cpu.year >= BROADCAST_SINCE


def flush_kernel_range(
    mmus: Sequence[Mmu],
    counts: npt.NDArray[np.int64],
    flush: str,
    address: int,
    leaves: int,
    level: int,
    ceiling: int,
) -> None:
    """Let every CPU forget a range: leaf by leaf, or everything if it is long.

    Linux 6.18, ``arch/x86/mm/tlb.c``: ``flush_tlb_kernel_range``, ``invlpgb_kernel_range_flush``.

    Parameters
    ----------
    mmus : sequence of Mmu
        Of all CPUs, that of the CPU that flushes first. Mutated.
    counts : int64[COUNTERS]
        Of the system's operations. Mutated.
    flush : str
        One of :data:`MECHANISMS`.
    address, leaves, level : int
        The range.
    ceiling : int
        4 KiB pages above which everything is flushed.
    """
    if leaves << (9 * (level - 1)) > ceiling:
        flush_all(mmus, counts, flush)
        return
    if flush == "invlpgb":
        counts[Cause.BROADCAST] += -(-leaves // BROADCAST_PAGES)
        counts[Cause.BROADCAST_WAIT] += 1
        for mmu in mmus:
            mmu.forget(address, leaves, level)
        return
    counts[Cause.FLUSH_CALL] += 1
    counts[Cause.INTERRUPT] += len(mmus) > 1
    for mmu in mmus:
        mmu.invalidate(address, leaves, level)


def flush_all(mmus: Sequence[Mmu], counts: npt.NDArray[np.int64], flush: str) -> None:
    """Let every CPU forget everything; parameters as those of :func:`flush_kernel_range`."""
    if flush == "invlpgb":
        counts[Cause.BROADCAST] += 1
        counts[Cause.BROADCAST_WAIT] += 1
        for mmu in mmus:
            mmu.forget_all()
        return
    # The price of a full flush is that of the whole call; one round of interrupts reaches all other CPUs.
    counts[Cause.INTERRUPT] += len(mmus) > 1
    for mmu in mmus:
        mmu.flush()
