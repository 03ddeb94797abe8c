"""A snapshot of this machine: free blocks of one moment, written as a recording that ends as it begins."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vclab.host import procfiles, zonerows
from vclab.host.eventlog import read_log
from vclab.host.interruption import interruptible
from vclab.host.watch import glimpse, live_texts, watching
from vclab.recordings.freemap import FreeMap
from vclab.watched import write_glimpse, write_live

_DIRECT_MAP = {"4K": "DirectMap4k", "2M": "DirectMap2M", "1G": "DirectMap1G"}
_ZONE = re.compile(r"^Node (\d+), zone +(\S+)$", re.MULTILINE)
_LIST = re.compile(r"^ +cpu: (\d+)\s+count: +(\d+)\s+high: +(\d+)\s+batch: +(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class PerCpuList:
    """The per-CPU list of one CPU in one zone, in frames.

    Attributes
    ----------
    zone : str
    cpu, count, high, batch : int
    """

    zone: str
    cpu: int
    count: int
    high: int
    batch: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """This machine's memory at one moment.

    Attributes
    ----------
    free : FreeMap
    direct_map : dict of str to int
        Bytes of the direct map by the size of its pages.
    lists : list of PerCpuList
        Those that hold anything.
    lost : int
        Events lost while all frames were looked at.
    """

    free: FreeMap
    direct_map: dict[str, int]
    lists: list[PerCpuList]
    lost: int

    @property
    def free_frames(self) -> npt.NDArray[np.int64]:
        """Free frames by zone, int64[zones]."""
        return np.asarray(self.free.counted @ (1 << np.arange(self.free.counted.shape[1])))


def per_cpu_lists(zoneinfo: str) -> list[PerCpuList]:
    """Return the per-CPU lists that a zoneinfo text tells of, those that hold nothing left out."""
    parts = _ZONE.split(zoneinfo)
    lists = []
    for node, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        zone = name if node == "0" else f"{name} (node {node})"
        lists += [PerCpuList(zone, *map(int, match.groups())) for match in _LIST.finditer(text)]
    return [one for one in lists if one.count]


def take(folder: Path) -> Snapshot:
    """Look at this machine, and write what is seen as a recording without events.

    Parameters
    ----------
    folder : Path
        It exists and is empty.

    Raises
    ------
    HostError
        If this machine cannot be looked at.
    """
    spool = folder / "trace"
    spool.mkdir()
    with interruptible(), watching(spool) as watch:
        seen = glimpse()
        live = live_texts()
        watch.end()
    log = read_log([(cpu, watch.drain.path(cpu)) for cpu in watch.drain.cpus], watch.formats, watch.page_bytes)
    shutil.rmtree(spool)
    rows = zonerows.zone_rows(log, watch.formats, zonerows.per_cpu_orders())
    free = write_glimpse(folder, "pre", seen, log, rows)
    write_live(folder, live, watch.formats)
    memory = procfiles.meminfo()
    sizes = {size: memory.get(name, 0) for size, name in _DIRECT_MAP.items()}
    lists = per_cpu_lists(seen.texts["zoneinfo"].decode("ascii", "replace"))
    return Snapshot(free, sizes, lists, max(watch.lost, log.lost))
