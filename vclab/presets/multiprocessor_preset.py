"""The schema of a multiprocessor preset: what CPUs that share lines, locks and interrupts pay for it."""

from __future__ import annotations

from vclab.presets.sourced import Count, Model, Preset, Ranged, Sourced


class Line(Model):
    """Nanoseconds for a cache line to be read and then written after another CPU did.

    ``near``: a core of the same socket; ``far``: of another one. ``timer``: a read of the platform's timer, which
    serves one CPU after another as a line does.
    """

    near_ns: Ranged
    far_ns: Ranged
    timer_ns: Ranged


class Interrupt(Model):
    """Nanoseconds of one CPU's request to the others.

    ``send``: by the CPU that asks, and ``target`` for each other CPU besides, where they are told one by one;
    ``delay``: until the other takes it; ``entry``, ``exit``: of the handler; ``wake``:
    what a halted CPU needs besides.
    """

    send_ns: Ranged
    delay_ns: Ranged
    entry_ns: Ranged
    exit_ns: Ranged
    wake_ns: Ranged
    target_ns: Ranged | None = None


class Vmap(Model):
    """Work of mapping four pages that differs between the two releases.

    ``unmap_share``: of the work that both do, the part that clears entries, which 2.6.27 does under its lock. ``list``:
    walking the areas once. ``bitmap_position``: one place tried in a block's bitmap; ``block``: the rest of an
    allocation and a free in a block; ``new_block``: a block.
    """

    unmap_share: Ranged
    list_ns: Ranged
    bitmap_position_ns: Ranged
    block_ns: Ranged
    new_block_ns: Ranged


class MultiprocessorPreset(Preset):
    """One machine of several sockets under one kernel."""

    gigahertz: Ranged
    sockets: Sourced[Count]
    cores: Sourced[Count]
    line: Line
    interrupt: Interrupt
    vmap: Vmap | None = None

    @property
    def cpus(self) -> int:
        """CPUs of all sockets."""
        return self.sockets.value * self.cores.value
