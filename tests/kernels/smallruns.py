"""The scripts in ``small_runs``, which together compile every kernel: a new one adds its own, or a line to one of them.

Each runs in a process of its own, and tells for what types of arguments it has compiled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import vckernels
from vckernels import jit

ROOT = Path(vckernels.__file__).parent.parent
REPOSITORY = ROOT.parent
SCRIPTS = Path(__file__).parent / "small_runs"

_SIGNATURES = """
import gc, importlib, json, pkgutil, runpy
import vckernels
from numba import types
from numba.core.dispatcher import Dispatcher

# What compiling leaves lying about lives for a minute; looking through it again and again takes a tenth of the time.
gc.disable()
runpy.run_path(SCRIPT)


def floats(kind):
    if isinstance(kind, types.Float) or isinstance(kind, types.Complex):
        return [str(kind)]
    if isinstance(kind, types.Array):
        return floats(kind.dtype)
    if isinstance(kind, types.BaseTuple):
        return [found for member in kind for found in floats(member)]
    return []


found = {}
every = []
for info in pkgutil.iter_modules(vckernels.__path__):
    module = importlib.import_module("vckernels." + info.name)
    for name, kernel in vars(module).items():
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__:
            every.append(module.__name__ + "." + name)
            for signature in kernel.nopython_signatures:
                kinds = [*signature.args, signature.return_type]
                named = found.setdefault(every[-1], [])
                named.extend(f for kind in kinds for f in floats(kind))
                named.extend(str(kind) for kind in signature.args if isinstance(kind, types.Literal | types.EnumMember))
print(json.dumps([every, found]))
"""


class Compiled(NamedTuple):
    """What the small runs have compiled.

    Attributes
    ----------
    every : list of list of str
        Of each run, all kernels that there are.
    kinds : dict of str to list of str
        Of each kernel that was compiled, floats and values for which it was.
    """

    every: list[list[str]]
    kinds: dict[str, list[str]]


def run(code: str, cache: Path, root: Path = ROOT, **environment: str) -> Any:
    """Run Python code with kernels from a source root in a process of its own; return what it printed, as JSON."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "VCLAB_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept
        | {"PYTHONPATH": os.pathsep.join([str(root), str(REPOSITORY)]), "VCLAB_CACHE_DIR": str(cache)}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _order(script: Path) -> tuple[bool, bool, int]:
    """The longest run first, beside it those that do not need what it begins with, the free lists; then by length.

    So two processes seldom compile the same kernel at once, and end at about the same time.
    """
    text = script.read_text(encoding="utf-8")
    return script.stem != "system", "buddy" in text, -len(text)


def compile_all(elsewhere: Path) -> Compiled:
    """Run all of them, on all CPUs, and return what they have compiled.

    A kernel whose callers are loaded from a cache is not compiled, so a cache that holds something will not do.

    Parameters
    ----------
    elsewhere : Path
        An empty folder, for the machine code of kernels that other tests have already.
    """
    cache, switches = elsewhere, {"NUMBA_OPT": "1"}
    if not any(jit.cache_directory().rglob("*.nbi")):
        cache, switches = jit.cache_directory().parent, {n: v for n, v in os.environ.items() if n.startswith("NUMBA_")}

    def signatures(script: Path) -> tuple[list[str], dict[str, list[str]]]:
        every, found = run(_SIGNATURES.replace("SCRIPT", repr(str(script))), cache, **switches)
        return every, found

    compiled = Compiled([], {})
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for every, part in pool.map(signatures, sorted(SCRIPTS.glob("*.py"), key=_order)):
            compiled.every.append(every)
            for name, kinds in part.items():
                compiled.kinds.setdefault(name, []).extend(kinds)
    return compiled
