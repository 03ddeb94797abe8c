"""The one decorator through which every kernel is compiled, and where its machine code is kept.

Numba names a cached function by its own file alone, so an edit in an imported helper, or another
``NUMBA_BOUNDSCHECK``, would run old code. Here the cache folder is named by a digest of everything that
changes the code: all kernel sources, the versions, the switches and the processor.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import llvmlite
import numba
import numpy as np
from llvmlite import binding
from numba.core import config as numba_config
from numba.core import types

# Numba fills this module in from the environment, so its attributes are not in the text.
config: Any = numba_config

Function = TypeVar("Function", bound=Callable[..., object])

_SWITCHES = ("NUMBA_BOUNDSCHECK", "NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_DEBUGINFO")


def code_digest() -> str:
    """Return the hexadecimal digest of all that decides what the compiled kernels do."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    processor = (config.CPU_NAME or binding.get_host_cpu_name(), config.CPU_FEATURES or "")
    versions = (numba.__version__, llvmlite.__version__, sys.version)
    digest.update(repr((versions, processor, [os.environ.get(switch) for switch in _SWITCHES])).encode())
    return digest.hexdigest()[:20]


def cache_directory() -> Path:
    """Return the folder of this build's machine code; it need not exist yet.

    It lies under ``$VCLAB_CACHE_DIR``, else ``$XDG_CACHE_HOME/vclab``, else the user's cache folder.
    """
    chosen = os.environ.get("VCLAB_CACHE_DIR")
    if chosen:
        return Path(chosen) / code_digest()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vclab" / code_digest()


def _can_keep(directory: Path) -> bool:
    """Return whether files can be put into a folder, creating it if need be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


_CACHE_DIRECTORY = cache_directory()
# Where nothing can be kept, every process compiles anew: Numba would fall back to files beside the sources, whose
# names do not tell what they hold.
_KEEP = _can_keep(_CACHE_DIRECTORY)

unsigned = np.uint64
"""Cast of an index that is never negative. With a signed one Numba tests at every access whether to count from the
end, which slows the innermost loops."""


def _plain(kind: Any) -> Any:
    """Return the type of a value without the value, and that of an enumeration's member as its integer's."""
    kind = getattr(kind, "literal_type", kind)
    return kind.dtype if isinstance(kind, types.IntEnumMember) else kind


def _dispatcher(body: Callable[..., object], directory: Path, **options: bool) -> Any:
    """Return what Numba compiles of a function for its arguments' types alone, and keeps in a folder.

    For ``f(zone, 0)`` in a kernel Numba would compile ``f``, and all that it calls, anew for a zero, and for each
    enumeration's members too: a quarter of all kernels. Where the value matters, LLVM puts it in after inlining.
    """
    before = config.CACHE_DIR
    config.CACHE_DIR = str(directory)
    try:
        # Without Numba's reference counts: they cost more than the work (two atomic operations per array and
        # call), and what cannot count references cannot allocate either, so kernels never do. And without what C
        # would call them by, which nothing does.
        dispatcher = numba.njit(body, cache=_KEEP, nogil=True, _nrt=False, no_cfunc_wrapper=True, **options)
    finally:
        config.CACHE_DIR = before
    compile_for = dispatcher.compile

    def compile_once(kinds: tuple[Any, ...]) -> Any:
        code = compile_for(tuple(_plain(kind) for kind in kinds))
        if any(isinstance(kind, types.IntEnumMember) for kind in kinds):
            # Python's next call with that enumeration finds it without asking here.
            dispatcher._insert([kind._code for kind in kinds], code, False)
        return code

    dispatcher.compile = compile_once
    return dispatcher


def _inlined(body: Callable[..., object]) -> Any:
    """Return a kernel that is put into its callers, and made callable by Python where that calls it: in tests.

    To take a NamedTuple of arrays apart, which Python hands over, is more code than most of these kernels are.
    """
    inlined = _dispatcher(body, _CACHE_DIRECTORY, forceinline=True, no_cpython_wrapper=True)
    called = _dispatcher(body, _CACHE_DIRECTORY / "called")
    # What Numba finds for a call by Python is never the code that Python cannot call, but what is asked for here.
    inlined._insert = lambda *_code, **_options: None
    inlined._compile_for_args = lambda *_arguments, **_keywords: called
    return inlined


@overload
def kernel(function: Function) -> Function: ...
@overload
def kernel(*, inline: bool) -> Callable[[Function], Function]: ...
def kernel(function: Function | None = None, *, inline: bool = False) -> Function | Callable[[Function], Function]:
    """Compile a function without the interpreter, release the GIL, keep the machine code.

    Parameters
    ----------
    function : callable
        The function to compile at its first call.
    inline : bool
        Put the machine code into every caller. A call passes a NamedTuple of arrays word by word, so whatever is
        called once per event is inlined; batch entry points and rare paths are not.
    """

    def compile_kernel(body: Function) -> Function:
        compiled: Function = _inlined(body) if inline else _dispatcher(body, _CACHE_DIRECTORY)
        return compiled

    return compile_kernel if function is None else compile_kernel(function)
