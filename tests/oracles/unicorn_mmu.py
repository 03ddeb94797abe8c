"""QEMU's x86-64 memory management unit, through Unicorn, on page tables given as bytes.

Traps of Unicorn 2.1 that shape this file: a fault that is not delivered turns the next one into a double
fault, so the processor's state is restored before each access; a selector written by the host does not change
the privilege level, so user mode is entered by a real IRETQ; the translator reads the byte before ``until``
when it starts a block, so ``until`` lies in the code page of the running mode; ``count=1`` makes it translate
anew each time, so fetched words end with INT3 instead. QEMU here fixes MAXPHYADDR at 40, knows 1G pages
whatever CPUID says, and sets the accessed bit of a 1G leaf before it checks the access.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import unicorn
from unicorn import unicorn_const as engine
from unicorn import x86_const as x86

State = Any
"""A saved processor; Unicorn's classes carry no types."""
_library: Any = unicorn

PHYSICAL_BITS = 40
NO_MEMORY = -1
"""In the place of a vector: the access was allowed, but no memory lies at the physical address."""

_OWN_MEMORY = (1 << PHYSICAL_BITS) - 0x1_0000
_SUPERVISOR_CODE, _USER_CODE, _STACK, _READ_ONLY, _RESERVED, _ABSENT = range(6)
_LOAD, _STORE, _RETURN, _END = 0x00, 0x10, 0x20, 0x40
_CODE = bytes.fromhex("488b06").ljust(_STORE, b"\x90") + bytes.fromhex("48890e").ljust(16, b"\x90")
_CODE = (_CODE + bytes.fromhex("48cf")).ljust(4096, b"\x90")
_SEGMENTS = (0, 0x0020_9A00_0000_0000, 0x0000_9200_0000_0000, 0x0000_F200_0000_0000, 0x0020_FA00_0000_0000)
_EFER = 0xC000_0080
_UNMAPPED = (engine.UC_ERR_READ_UNMAPPED, engine.UC_ERR_WRITE_UNMAPPED, engine.UC_ERR_FETCH_UNMAPPED)


class Answer(NamedTuple):
    """What an access did.

    Attributes
    ----------
    vector : int or None
        14 page fault, 13 general protection, ``NO_MEMORY``, or None if it succeeded.
    cr2 : int or None
        Faulting address of a page fault.
    value : int or None
        The word loaded, or the number that a fetched :func:`token` carries.
    error_code : int or None
        Of a fault; None without one, or where it could not be located in the processor's state.
    """

    vector: int | None
    cr2: int | None
    value: int | None
    error_code: int | None


def token(physical: int) -> int:
    """Return a word that names its own address (a multiple of 8), as data and as code.

    As code it is ``mov eax, number; int3``. Bit 0 is clear: read as a page-table word it is not present.
    """
    return 0xB8 | fetched_number(physical) << 8 | 0xCC << 40 | (physical >> 35 & 0xFFFF) << 48


def tokens(first: int, nbytes: int) -> npt.NDArray[np.uint64]:
    """Return the tokens of a range of memory."""
    at = np.arange(first, first + nbytes, 8, dtype=np.uint64)
    number = (at >> np.uint64(3)) & np.uint64(0xFFFF_FFFF)
    upper = (at >> np.uint64(35)) << np.uint64(48)
    return np.uint64(0xB8 | 0xCC << 40) | (number << np.uint64(8)) | upper


def fetched_number(physical: int) -> int:
    """Return the number that executing the token at an address yields."""
    return physical >> 3 & 0xFFFF_FFFF


class UnicornMmu:
    """One processor and its memory.

    Its own code and stack hang below one unused word of the root table: :attr:`slot`. Addresses below that
    word cannot be asked about.

    Parameters
    ----------
    frames : int64[n]
        Frame of each table.
    words : uint64[n, 512]
    root : int
        Physical address of the top table.
    levels : int
        4 or 5.
    memory : iterable of (int, int)
        First address and bytes of memory beside the tables, both multiples of 4096. Reads as zeros.
    """

    def __init__(
        self,
        frames: npt.NDArray[np.int64],
        words: npt.NDArray[np.uint64],
        root: int,
        levels: int,
        memory: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.levels = levels
        self._addresses = [int(frame) << 12 for frame in frames]
        self._root_row = self._addresses.index(root)
        free = np.flatnonzero(words[self._root_row] & np.uint64(1) == 0)
        if len(free) == 0:
            raise ValueError("the root table has no unused word for the emulator's own code")
        self.slot = int(free[-1])
        self._uc = _library.Uc(engine.UC_ARCH_X86, engine.UC_MODE_64, cpu=x86.UC_CPU_X86_ICELAKE_SERVER)
        self._uc.ctl_set_tlb_mode(engine.UC_TLB_CPU)
        self.memory = _merged([*memory, *((address, 4096) for address in self._addresses)])
        for first, nbytes in [*self.memory, (_OWN_MEMORY, 0x1_0000)]:
            self._uc.mem_map(first, nbytes)
        self._build_own_pages()
        self.set_tables(words)
        self._vectors: list[int] = []
        vectors = self._vectors

        def stop(emulator: Any, vector: int, _: object) -> None:
            vectors.append(vector)
            emulator.emu_stop()

        self._uc.hook_add(engine.UC_HOOK_INTR, stop)
        self._modes = self._enter_both_modes(root)
        self._scratch = self._uc.context_save()
        self._prepared: dict[tuple[bool, ...], list[State]] = {}
        self._error_code_at: int | None = None
        self.control()
        self._error_code_at = self._locate_error_code()

    def control(
        self,
        *,
        write_protect: bool = True,
        no_execute: bool = True,
        smep: bool = False,
        smap: bool = False,
    ) -> None:
        """Set CR0.WP, EFER.NXE, CR4.SMEP and CR4.SMAP, and empty the TLB."""
        key = (write_protect, no_execute, smep, smap)
        if key not in self._prepared:
            self._prepared[key] = [self._with_controls(mode, *key) for mode in self._modes]
        self._contexts = self._prepared[key]
        self.flush()

    def flush(self) -> None:
        """Empty the TLB."""
        self._uc.ctl(engine.UC_CTL_TLB_FLUSH, engine.UC_CTL_IO_WRITE)

    def set_tables(self, words: npt.NDArray[np.uint64]) -> None:
        """Write all tables and empty the TLB."""
        if int(words[self._root_row, self.slot]) & 1:
            raise ValueError(f"word {self.slot} of the root table is in use")
        for address, row in zip(self._addresses, words, strict=True):
            self._uc.mem_write(address, row.tobytes())
        self._own_word_before = int(words[self._root_row, self.slot])
        self.write(self._addresses[self._root_row] + 8 * self.slot, self._own_word)
        self.flush()

    def tables(self) -> npt.NDArray[np.uint64]:
        """Return all tables as they are now, uint64[n, 512], without the emulator's own word."""
        read = [np.frombuffer(self._uc.mem_read(address, 4096), np.uint64) for address in self._addresses]
        words = np.stack(read)
        words[self._root_row, self.slot] = self._own_word_before
        return words

    def fill(self, first: int, nbytes: int) -> None:
        """Write :func:`tokens` into a range of memory."""
        self._uc.mem_write(first, tokens(first, nbytes).tobytes())

    def read(self, physical: int) -> int:
        """Return the word at a physical address."""
        return int.from_bytes(self._uc.mem_read(physical, 8), "little")

    def write(self, physical: int, word: int) -> None:
        """Write the word at a physical address."""
        self._uc.mem_write(physical, word.to_bytes(8, "little"))

    def load(self, address: int, user: bool = False) -> Answer:
        """Load the 8 bytes at a virtual address."""
        code = self._own(_USER_CODE if user else _SUPERVISOR_CODE) + _LOAD
        answer = self._run(user, code, code + 3, address, 0)
        return answer if answer.vector is not None else answer._replace(value=self._accumulator())

    def store(self, address: int, value: int, user: bool = False) -> Answer:
        """Store 8 bytes at a virtual address."""
        code = self._own(_USER_CODE if user else _SUPERVISOR_CODE) + _STORE
        return self._run(user, code, code + 3, address, value)

    def fetch(self, address: int, user: bool = False) -> Answer:
        """Execute the :func:`token` at a virtual address."""
        until = self._own(_USER_CODE if user else _SUPERVISOR_CODE) + _END
        answer = self._run(user, address, until, 0, 0)
        if answer.vector != 3:
            return answer
        return Answer(None, None, self._accumulator() & 0xFFFF_FFFF, None)

    def _run(self, user: bool, begin: int, until: int, rsi: int, rcx: int) -> Answer:
        uc = self._uc
        self._vectors.clear()
        uc.context_restore(self._contexts[user])
        uc.reg_write(x86.UC_X86_REG_RSI, rsi)
        uc.reg_write(x86.UC_X86_REG_RCX, rcx)
        try:
            uc.emu_start(begin, until)
        except _library.UcError as error:
            if error.errno not in _UNMAPPED:
                raise
            return Answer(NO_MEMORY, None, None, None)
        if not self._vectors:
            return Answer(None, None, None, None)
        vector = self._vectors[0]
        cr2 = uc.reg_read(x86.UC_X86_REG_CR2) if vector == 14 else None
        return Answer(vector, cr2, None, self._error_code())

    def _accumulator(self) -> int:
        return int(self._uc.reg_read(x86.UC_X86_REG_RAX))

    def _error_code(self) -> int | None:
        if self._error_code_at is None:
            return None
        return int(struct.unpack_from("<i", self._state(), self._error_code_at)[0])

    def _state(self) -> bytes:
        self._uc.context_update(self._scratch)
        return bytes(self._scratch)

    def _locate_error_code(self) -> int | None:
        """Return where the saved state holds the error code, found by faults whose code is known."""
        absent, read_only, reserved = self._own(_ABSENT), self._own(_READ_ONLY), self._own(_RESERVED)
        states = []
        expected = (0, 2, 3, 9, 4, 6, 0x14)
        for number in range(len(expected)):
            if number == 6:
                self.fetch(absent, True)
            elif number in (1, 2, 5):
                self.store(read_only if number == 2 else absent, 0, number == 5)
            else:
                self.load(reserved if number == 3 else absent, number == 4)
            states.append(np.frombuffer(self._state(), np.int32))
        found = np.flatnonzero((np.stack(states, axis=1) == np.array(expected)).all(axis=1))
        return 4 * int(found[0]) if len(found) == 1 else None

    def _enter_both_modes(self, root: int) -> tuple[State, State]:
        """Turn paging on; return the state in supervisor mode and, after an IRETQ, in user mode."""
        uc = self._uc
        uc.msr_write(_EFER, 0xD01)
        uc.reg_write(x86.UC_X86_REG_CR4, self._cr4(False, False))
        uc.reg_write(x86.UC_X86_REG_CR3, root)
        uc.reg_write(x86.UC_X86_REG_CR0, 0x8001_0011)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, self._own(_STACK), 8 * len(_SEGMENTS) - 1, 0))
        uc.reg_write(x86.UC_X86_REG_CS, 8)
        uc.reg_write(x86.UC_X86_REG_SS, 16)
        supervisor = uc.context_save()
        uc.reg_write(x86.UC_X86_REG_RSP, self._own(_STACK) + 0x800)
        uc.emu_start(self._own(_SUPERVISOR_CODE) + _RETURN, self._own(_USER_CODE) + _END, count=1)
        if self._vectors or uc.reg_read(x86.UC_X86_REG_CS) & 3 != 3:
            raise RuntimeError(f"user mode not reached, vectors {self._vectors}")
        return supervisor, uc.context_save()

    def _cr4(self, smep: bool, smap: bool) -> int:
        return 0x220 | (self.levels == 5) << 12 | smep << 20 | smap << 21

    def _with_controls(self, mode: State, write_protect: bool, no_execute: bool, smep: bool, smap: bool) -> State:
        uc = self._uc
        uc.context_restore(mode)
        uc.msr_write(_EFER, 0x501 | no_execute << 11)
        uc.reg_write(x86.UC_X86_REG_CR0, 0x8000_0011 | write_protect << 16)
        uc.reg_write(x86.UC_X86_REG_CR4, self._cr4(smep, smap))
        if uc.reg_read(x86.UC_X86_REG_CR4) != self._cr4(smep, smap):
            raise RuntimeError("this CPU model lacks 5 levels, SMEP or SMAP")
        return uc.context_save()

    def _own(self, page: int) -> int:
        """Return the virtual address of one of the emulator's own pages."""
        width = 12 + 9 * self.levels
        address = self.slot << (width - 9)
        if address >> (width - 1):
            address |= (1 << 64) - (1 << width)
        return address + 4096 * page

    def _build_own_pages(self) -> None:
        """Write code, segments and the tables that map them, all bits an access would set being set."""
        table = 0x27
        for page in range(3):
            self._uc.mem_write(_OWN_MEMORY + 4096 * page, _CODE)
        stack = _OWN_MEMORY + 4096 * _STACK
        for number, descriptor in enumerate(_SEGMENTS):
            self.write(stack + 8 * number, descriptor)
        for number, word in enumerate((self._own(_USER_CODE), 0x23, 0x2, 0, 0x1B)):
            self.write(stack + 0x800 + 8 * number, word)
        leaves = {
            _SUPERVISOR_CODE: _OWN_MEMORY | 0x63,
            _USER_CODE: (_OWN_MEMORY + 4096 * _USER_CODE) | 0x67,
            _STACK: stack | 0x63,
            _READ_ONLY: stack | 0x61,
            _RESERVED: stack | 0x63 | 1 << 50,
        }
        lowest = _OWN_MEMORY + 0x8000
        for page, leaf in leaves.items():
            self.write(lowest + 8 * page, leaf)
        below = lowest
        for level in range(2, self.levels):
            self.write(_OWN_MEMORY + 0x8000 + 4096 * (level - 1), below | table)
            below = _OWN_MEMORY + 0x8000 + 4096 * (level - 1)
        self._own_word = below | table


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return disjoint ranges that cover the given ones."""
    merged: list[tuple[int, int]] = []
    for first, nbytes in sorted(ranges):
        if merged and first <= sum(merged[-1]):
            start, length = merged[-1]
            merged[-1] = (start, max(length, first + nbytes - start))
        else:
            merged.append((first, nbytes))
    return merged
