"""The page walk of x86-64 in plain Python, written from the rules and from no kernel.

Source: Intel SDM volume 3A, sections 4.5 to 4.8 (tables 4-14 to 4-20, figure 4-12). Memory is a dict
``{frame: [512 words]}``; a frame that is not in it reads as zeros.
"""

from __future__ import annotations

from typing import NamedTuple

Memory = dict[int, list[int]]

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, NO_EXECUTE = 0, 1, 2, 5, 6, 7, 63
"""Bit numbers."""


class Rules(NamedTuple):
    """What CPUID and the control registers say."""

    levels: int = 4
    physical_bits: int = 40
    gigabyte_pages: bool = True
    no_execute: bool = True
    write_protect: bool = True
    smep: bool = False
    smap: bool = False


class Walk(NamedTuple):
    """Outcome of a walk.

    Attributes
    ----------
    frame : int or None
        4 KiB frame of the address; None on a fault.
    level : int
        Level of the last word seen; 0 if there was none.
    faults : frozenset of str
        Every rule the access breaks at that word; a CPU does not say which one it looked at first.
    path : tuple of (int, int)
        Frame and index of the words seen, from the root down.
    """

    frame: int | None
    level: int
    faults: frozenset[str]
    path: tuple[tuple[int, int], ...]


def bit(word: int, number: int) -> bool:
    """Return one bit of a word."""
    return word >> number & 1 == 1


def must_be_zero(word: int, level: int, rules: Rules) -> set[int]:
    """Return the numbers of the bits that a present word of this level may not set."""
    bits = set(range(rules.physical_bits, 52))
    if not rules.no_execute:
        bits.add(63)
    if level >= 4:
        bits.add(7)
    if level == 3 and not rules.gigabyte_pages:
        bits.add(7)
    elif level == 3 and bit(word, LARGE):
        bits |= set(range(13, 30))
    elif level == 2 and bit(word, LARGE):
        bits |= set(range(13, 21))
    return bits


def broken_rules(path_words: list[int], rules: Rules, write: bool, user: bool, fetch: bool) -> set[str]:
    """Return which access rights an access violates, given the words from the root to the leaf."""
    user_page = all(bit(word, USER) for word in path_words)
    writable_page = all(bit(word, WRITABLE) for word in path_words)
    forbidden_fetch = any(bit(word, NO_EXECUTE) for word in path_words)
    broken = set()
    if user and not user_page:
        broken.add("USER")
    if fetch and forbidden_fetch and rules.no_execute:
        broken.add("FETCH")
    if write and not writable_page and (user or rules.write_protect):
        broken.add("WRITE")
    if not user and user_page and fetch and rules.smep:
        broken.add("SUPERVISOR_FETCH")
    if not user and user_page and not fetch and rules.smap:
        broken.add("SUPERVISOR_ACCESS")
    return broken


def walk(
    memory: Memory,
    root: int,
    address: int,
    rules: Rules,
    *,
    write: bool = False,
    user: bool = False,
    fetch: bool = False,
    update: bool = False,
) -> Walk:
    """Translate an address.

    Parameters
    ----------
    memory : dict
        With ``update``, accessed and dirty bits are set in it.
    root : int
        Frame of the top table.
    address : int
        0 to 2**64 - 1.
    rules : Rules
    write, user, fetch : bool
        The access.
    update : bool
        Set the bits a CPU sets: accessed in every word that leads to a present, valid one, and at the leaf,
        once the access is allowed, accessed and (for a write) dirty.
    """
    width = 12 + 9 * rules.levels
    upper = address >> (width - 1)
    if upper not in (0, (1 << (64 - width + 1)) - 1):
        return Walk(None, 0, frozenset({"NON_CANONICAL"}), ())
    path: list[tuple[int, int]] = []
    words: list[int] = []
    frame = root
    level = rules.levels
    while True:
        index = address >> (12 + 9 * (level - 1)) & 511
        table = memory.get(frame)
        word = 0 if table is None else table[index]
        path.append((frame, index))
        words.append(word)
        if not bit(word, PRESENT):
            return Walk(None, level, frozenset({"NOT_PRESENT"}), tuple(path))
        if any(bit(word, number) for number in must_be_zero(word, level, rules)):
            return Walk(None, level, frozenset({"RESERVED_BIT"}), tuple(path))
        if level == 1 or (level in (2, 3) and bit(word, LARGE)):
            break
        if update:
            memory[frame][index] = word | 1 << ACCESSED
        frame = word >> 12 & (1 << 40) - 1
        level -= 1
    broken = broken_rules(words, rules, write, user, fetch)
    if broken:
        return Walk(None, level, frozenset(broken), tuple(path))
    if update:
        memory[frame][index] = word | 1 << ACCESSED | (1 << DIRTY if write else 0)
    page_bits = 12 + 9 * (level - 1)
    page = (word & (1 << 52) - 1) >> page_bits << page_bits
    physical = page | address & (1 << page_bits) - 1
    return Walk(physical >> 12, level, frozenset(), tuple(path))


def error_code(
    faults: frozenset[str], rules: Rules, *, write: bool = False, user: bool = False, fetch: bool = False
) -> int:
    """Return the error code pushed for a fault (SDM figure 4-12); 0 for the general-protection fault."""
    if not faults or faults == {"NON_CANONICAL"}:
        return 0
    bits = {
        0: faults != {"NOT_PRESENT"},
        1: write,
        2: user,
        3: faults == {"RESERVED_BIT"},
        4: fetch and (rules.no_execute or rules.smep),
    }
    return sum(1 << number for number, value in bits.items() if value)
