"""What the one decorator promises: where machine code is kept, when it is made anew, and what types it has."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import vckernels
from tests.kernels.smallruns import ROOT, Compiled, run
from vckernels import jit


def modules() -> list[ModuleType]:
    """Return every kernel module."""
    return [importlib.import_module(f"vckernels.{found.name}") for found in pkgutil.iter_modules(vckernels.__path__)]


def kernels() -> dict[str, Dispatcher]:
    """Return every compiled function by module and name, the ones that kernels import counted once."""
    return {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__
    }


DIGEST = "import json; from vckernels import jit; print(json.dumps(jit.code_digest()))"


# The folder


def test_the_digest_names_the_folder_and_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = "import json; from vckernels import jit; print(json.dumps([jit.code_digest(), str(jit.cache_directory())]))"
    digest, folder = run(code, tmp_path)
    assert folder == str(tmp_path / digest)
    assert [digest, folder] == run(code, tmp_path)


def test_a_changed_source_changes_the_digest(tmp_path: Path) -> None:
    """Any kernel file counts, whichever kernel imports it, and new files too."""
    root = tmp_path / "kernels"
    shutil.copytree(ROOT / "vckernels", root / "vckernels", ignore=shutil.ignore_patterns("__pycache__"))
    before = run(DIGEST, tmp_path, root)
    assert before == run(DIGEST, tmp_path)
    with (root / "vckernels" / "causes.py").open("a") as file:
        file.write("\n")
    edited = run(DIGEST, tmp_path, root)
    (root / "vckernels" / "further.py").write_text("")
    assert len({before, edited, run(DIGEST, tmp_path, root)}) == 3


@pytest.mark.parametrize(
    ("switch", "value"),
    [("NUMBA_BOUNDSCHECK", "1"), ("NUMBA_CPU_NAME", "generic"), ("NUMBA_OPT", "1"), ("NUMBA_DEBUGINFO", "1")],
)
def test_a_switch_that_changes_code_changes_the_digest(tmp_path: Path, switch: str, value: str) -> None:
    assert run(DIGEST, tmp_path) != run(DIGEST, tmp_path, **{switch: value})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"VCLAB_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"VCLAB_CACHE_DIR": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/vclab"),
        ({"VCLAB_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/vclab"),
    ],
)
def test_where_machine_code_is_kept(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert jit.cache_directory() == Path(expected) / jit.code_digest()


# What is kept there


CALL = """
import json
import numpy as np
from vckernels import buddy
zone = buddy.new_buddy(64)
blocks = np.empty(1, np.int64)
try:
    # The lists of order 11 would begin just behind the last link: unchecked, it reads on.
    buddy.read_list(zone, ORDER, 4, blocks)
    answer = "read"
except IndexError:
    answer = "refused"
stats = buddy.read_list.stats
print(json.dumps([answer, sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


def test_an_index_out_of_range_raises_with_checks_on_after_a_warm_run_without(tmp_path: Path) -> None:
    """Numba alone would reload the unchecked code, since only its own source file names it."""
    inside, outside = CALL.replace("ORDER", "10"), CALL.replace("ORDER", "11")
    assert run(inside, tmp_path, NUMBA_BOUNDSCHECK="0") == ["read", 0, 1]
    assert run(inside, tmp_path, NUMBA_BOUNDSCHECK="0") == ["read", 1, 0]
    assert run(outside, tmp_path, NUMBA_BOUNDSCHECK="0") == ["read", 1, 0]
    assert run(outside, tmp_path, NUMBA_BOUNDSCHECK="1") == ["refused", 0, 1]
    assert run(outside, tmp_path, NUMBA_BOUNDSCHECK="1") == ["refused", 1, 0]
    assert run(inside, tmp_path, NUMBA_BOUNDSCHECK="1") == ["read", 1, 0]
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_kept_beside_the_sources() -> None:
    """All kernels have their cache in the one folder that the digest names."""
    folder = jit._CACHE_DIRECTORY
    for name, kernel in kernels().items():
        assert Path(kernel._cache.cache_path).is_relative_to(folder), name


# The types


@pytest.mark.compiles_all
def test_no_signature_holds_a_float_or_a_value(compiled: Compiled) -> None:
    """Of any kernel, inlined ones included, all of which the small runs compile; nothing in them asks for a float.

    Nor is a kernel compiled for one value of an argument, and again for another.
    """
    for every in compiled.every:
        assert sorted(every) == sorted(kernels())
    assert sorted(compiled.kinds) == sorted(kernels())
    for name in ("mmu._translate", "datacache.load_line", "walkcache.find_word", "prefetch.train", "tlb.count_misses"):
        assert f"vckernels.{name}" in compiled.kinds
    assert {name: kinds for name, kinds in compiled.kinds.items() if kinds} == {}


def test_a_member_of_an_enumeration_is_an_integer_and_nothing_is_compiled_for_it() -> None:
    from vckernels import buddy, watermark

    zone, limits = buddy.new_buddy(1024), watermark.new_limits(min=8, low=10, high=12)
    buddy.free_at_boot(zone, np.zeros(1, np.int64), np.full(1, 10, np.int8), True)
    for index in (watermark.ZoneIndex.NORMAL, int(watermark.ZoneIndex.NORMAL), watermark.ZoneIndex.NORMAL):
        assert watermark.zone_watermark_ok(zone, limits, 9, 8, index, 0, 1024)
        assert not watermark.zone_watermark_ok(zone, limits, 9, 1024, index, 0, 1024)
    assert [signature.args[4] for signature in watermark.zone_watermark_ok.nopython_signatures] == [numba.int64]


def test_python_can_call_a_kernel_that_others_have_inlined() -> None:
    """The code that they took is none that Python can call."""
    from vckernels import buddy, claim

    zone = buddy.new_buddy(64)
    buddy.free_at_boot(zone, np.zeros(1, np.int64), np.full(1, 6, np.int8), True)
    frame = claim.allocate_one(zone, 2, 1)
    buddy.allocated_order.compile(numba.typeof((zone, frame)).types)
    assert buddy.allocated_order(zone, frame) == 2
    assert buddy.allocated_order(zone, frame=frame) == 2


def test_integers_stay_int64_when_wider_or_narrower_ones_are_mixed_in() -> None:
    """A uint64 beside a signed integer would become a float64 in NumPy; the walk is the place for that."""
    from vckernels import pagetable

    tables = pagetable.new_page_tables(0, 0, 8, 4, 46, True)
    physical = np.empty(1, np.int64)
    pagetable.translate_many(tables, np.array([0xFFFF_8880_0000_0000], np.uint64), physical)
    assert physical.tolist() == [-1]
    for signature in pagetable.translate_many.nopython_signatures:
        assert signature.return_type in (numba.types.none, numba.types.void)


# The house rules


def test_kernels_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "__init__.py").exists()
    assert ROOT.name == "kernels" or "site-packages" in str(ROOT)


@pytest.mark.parametrize("name", sorted(kernels()))
def test_every_public_kernel_says_what_it_does(name: str) -> None:
    kernel = kernels()[name]
    if not name.split(".")[-1].startswith("_"):
        assert kernel.py_func.__doc__ is not None
        assert len(kernel.py_func.__doc__.split()) >= 3


def test_every_kernel_is_compiled_by_the_one_decorator() -> None:
    """Without the interpreter, without the GIL; nothing but ``jit`` names Numba's own decorators.

    ``vector`` adds an instruction to what they may use, and compiles nothing.
    """
    for name, kernel in kernels().items():
        assert kernel.targetoptions["nopython"], name
        assert kernel.targetoptions["nogil"], name
        assert "parallel" not in kernel.targetoptions, name
    for module in modules():
        source = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(source)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        allowed = {"__future__", "collections", "enum", "math", "numpy", "typing", "vckernels"}
        if module is jit:
            allowed |= {"hashlib", "llvmlite", "numba", "os", "pathlib", "sys"}
        elif module.__name__ == "vckernels.vector":
            allowed |= {"llvmlite", "numba"}
            taken = [node for node in ast.walk(source) if isinstance(node, ast.ImportFrom) and node.module == "numba"]
            assert {alias.name for node in taken for alias in node.names} <= {"extending", "types"}
        assert names <= allowed, f"{module.__name__} imports {names - allowed}"


def test_without_a_place_to_keep_code_nothing_is_written_beside_the_sources(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = "import vclab; print(vclab.tlb_misses([0, 1, 0], [vclab.TlbLevel(entries=1, ways=1)]))"
    environment = {**os.environ, "VCLAB_CACHE_DIR": str(blocked)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[3]"
    assert not list(Path(jit.__file__).parent.rglob("*.nb[ic]"))
