"""Reading of ``/proc/vmallocinfo``: the ranges of the vmalloc area."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vclab.recordings.refusal import refusal
from vclab.recordings.textfile import MOST, count, lines

#: What a range is for, in the order in which the kernel names it.
KINDS = ("ioremap", "sparse", "vmalloc", "vmap", "user", "dma-coherent")
#: A range without a descriptor: freed and not yet out of all TLBs, or made by ``vm_map_ram``.
BARE = ("unpurged vm_area", "vm_map_ram")
#: A million ranges and more.
_TEXT_BYTES = 128_000_000

_RANGE = re.compile(r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})\s+(\S+)((?: .*)?)", re.ASCII)
_CALLER = re.compile(
    r"[\w.$@]{1,256}(?:\+0x[0-9a-f]{1,16}/0x[0-9a-f]{1,16})?(?: \[[\w-]{1,64}\])?|0x[0-9a-f]{1,16}", re.ASCII
)
_FIELD = re.compile(r"(pages|phys)=(\S+)|N(\d{1,5})=(\S+)", re.ASCII)
_ADDRESS = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.ASCII)


@dataclass(frozen=True)
class VmallocRange:
    """One range.

    Attributes
    ----------
    start, end : int
        Addresses; hashed, and so without order, unless the reader may see them (``kptr_restrict``).
    nbytes : int
        Size, with the guard page.
    caller : str
        Function that asked for it, as ``name+0xoffset/0xsize``; empty if not recorded.
    pages : int
        Frames of its own, 0 for a mapping of others'.
    physical : int or None
        Physical address of a mapping of a device.
    kinds : tuple of str
        Of `KINDS`.
    page_array_virtual : bool
        Its array of pages lies in the vmalloc area itself (``vpages``).
    nodes : dict
        Frames by NUMA node.
    bare : str
        One of `BARE` for a range without a descriptor, else empty.
    """

    start: int
    end: int
    nbytes: int
    caller: str = ""
    pages: int = 0
    physical: int | None = None
    kinds: tuple[str, ...] = ()
    page_array_virtual: bool = False
    nodes: dict[int, int] = field(default_factory=dict)
    bare: str = ""


def read_vmallocinfo(path: Path) -> list[VmallocRange]:
    """Read ``/proc/vmallocinfo``.

    Raises
    ------
    RecordingError
        If the file is missing or a line is no range.
    """
    return [_range(line.rstrip(), where) for where, line in lines(path, _TEXT_BYTES)]


def _range(line: str, where: str) -> VmallocRange:
    match = _RANGE.fullmatch(line)
    if match is None:
        raise refusal(f"{line[:60]!r}", where, "a line should begin with a range of addresses and its size")
    start, end, nbytes = int(match[1], 16), int(match[2], 16), count(match[3], where)
    rest = match[4].strip()
    if rest in BARE:
        return VmallocRange(start, end, nbytes, bare=rest)
    caller = ""
    words = rest.split()
    if words and _is_caller(words[0]):
        caller = words.pop(0)
        if words and words[0].startswith("["):
            caller += f" {words.pop(0)}"
        if _CALLER.fullmatch(caller) is None:
            raise refusal(f"caller {caller[:40]!r}", where, "a function's name, offset and size are needed")
    numbers: dict[str, int] = {}
    nodes: dict[int, int] = {}
    kinds = []
    for word in words:
        found = _FIELD.fullmatch(word)
        if found is not None and found[1] == "phys":
            address = _ADDRESS.fullmatch(found[2])
            if address is None:
                raise refusal(f"phys {found[2][:40]!r}", where, "an address is needed")
            _put(numbers, "phys", int(address[1], 16), where)
        elif found is not None and found[1] == "pages":
            _put(numbers, "pages", count(found[2], where), where)
        elif found is not None:
            nodes[int(found[3])] = count(found[4], where)
        elif word in (*KINDS, "vpages") and word not in kinds:
            kinds.append(word)
        else:
            raise refusal(f"{word[:40]!r}", where, f"a range has {', '.join(KINDS)}, pages, phys and nodes, each once")
    return VmallocRange(
        start=start,
        end=end,
        nbytes=nbytes,
        caller=caller,
        pages=numbers.get("pages", 0),
        physical=numbers.get("phys"),
        kinds=tuple(kind for kind in kinds if kind != "vpages"),
        page_array_virtual="vpages" in kinds,
        nodes=nodes,
    )


def _is_caller(word: str) -> bool:
    return word not in (*KINDS, "vpages") and _FIELD.fullmatch(word) is None


def _put(numbers: dict[str, int], name: str, number: int, where: str) -> None:
    if name in numbers or number > MOST:
        raise refusal(f"{name} again", where, "a range has it once")
    numbers[name] = number
