"""What a machine can be: paging that its CPU and kernel have, a size that can be modelled, memory as it is at first."""

from __future__ import annotations

from collections.abc import Sequence

from vclab import presets, recordings
from vclab.allocator import boot_memory
from vclab.errors import ConfigurationError
from vclab.memory import FRAMES_PER_BLOCK, Memory
from vclab.presets import CpuPreset, LinuxPreset
from vclab.recorded import recorded_zone
from vclab.units import PAGE_BYTES, PAGE_SHIFT, format_bytes, page_level, parse_bytes

#: Most memory of a machine; the allocator's links are 32 bits wide.
MAX_BYTES = 4 << 40
RECORDED = "recorded"
DEFAULT_RECORDING = "compile"
#: The release of every recorded machine.
RECORDED_RELEASE = "6.18"


def _presets_with(matches: Sequence[CpuPreset]) -> str:
    return ", ".join(preset.name for preset in matches) or "none"


def check_paging(cpu: str, levels: int | None, direct_map: str, linux: LinuxPreset | None = None) -> tuple[int, int]:
    """Return the page-table levels and the direct map's leaf level of a CPU.

    Parameters
    ----------
    cpu : str
        Name of a preset.
    levels : int or None
        None: as many as the CPU has, and the kernel can use.
    direct_map : str
        "4K", "2M" or "1G".
    linux : LinuxPreset, optional
        The kernel whose address spaces there are; without it, any.

    Raises
    ------
    ConfigurationError
        Naming the presets that have what this CPU or kernel lacks.
    """
    paging = presets.cpu(cpu).paging
    every = [presets.cpu(name) for name in presets.cpu_names()]
    usable = paging.levels.value if linux is None else [space.levels for space in linux.address_space]
    wanted = max(count for count in paging.levels.value if count in usable) if levels is None else levels
    if linux is not None and wanted in paging.levels.value and wanted not in usable:
        others = [presets.linux(name) for name in presets.linux_names()]
        names = [one.name for one in others if wanted in [space.levels for space in one.address_space]]
        raise ConfigurationError(
            f"linux {linux.name} has no {wanted}-level paging; presets that have it: {', '.join(names)}"
        )
    if wanted not in paging.levels.value:
        having = _presets_with([preset for preset in every if wanted in preset.paging.levels.value])
        raise ConfigurationError(f"cpu {cpu} has no {wanted}-level paging; presets that have it: {having}")
    level = page_level(direct_map)
    if direct_map not in paging.page_sizes.value:
        having = _presets_with([preset for preset in every if direct_map in preset.paging.page_sizes.value])
        raise ConfigurationError(f"cpu {cpu} has no {direct_map} pages; presets that have them: {having}")
    return wanted, level


def boot_machine(memory: str | int, recording: str, linux: LinuxPreset, cpus: int, allocator: str) -> Memory:
    """Return the memory of a machine that has just booted, or as a recording found it.

    Parameters
    ----------
    memory : str or int
        A size, or ``RECORDED``.
    recording : str
        A shipped name or a path; matters only for a recorded machine.
    linux : LinuxPreset
    cpus : int
    allocator : str
        One of :data:`vclab.allocator.ALLOCATORS`.

    Raises
    ------
    ConfigurationError
        If there is no such machine.
    """
    if memory == RECORDED:
        recorded = presets.linux(RECORDED_RELEASE)
        if allocator != "free-lists" or linux.allocator != recorded.allocator:
            raise ConfigurationError(
                f"memory={RECORDED!r} is one zone under Linux {RECORDED_RELEASE}, without its per-CPU lists; "
                f"use allocator 'free-lists' and the rules of that release, or a size"
            )
        return Memory([recorded_zone(recordings.load(recording))])
    return boot_memory(linux, check_size(memory) >> PAGE_SHIFT, cpus, allocator)


def check_size(memory: str | int) -> int:
    """Return a machine's size in bytes.

    Raises
    ------
    ConfigurationError
        If no such machine can be modelled.
    """
    nbytes = parse_bytes(memory, "memory")
    block = FRAMES_PER_BLOCK * PAGE_BYTES
    if nbytes % block or not block <= nbytes <= MAX_BYTES:
        raise ConfigurationError(
            f"memory of {memory} cannot be modelled; use a multiple of 4MiB from 4MiB to {format_bytes(MAX_BYTES)}, "
            f"or {RECORDED!r}"
        )
    return nbytes
