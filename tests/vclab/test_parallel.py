"""Drawing in several processes: answers in their order, something else meanwhile, and ends that leave no noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from vclab.errors import OutputError, VclabError
from vclab.figures.parallel import draw_all

needs_processes = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="with one CPU, and elsewhere than on Linux, figures are drawn in one process",
)


def refuse() -> int:
    raise OutputError("cannot write there")


def test_answers_come_in_their_order_and_something_else_is_done_once_meanwhile() -> None:
    done: list[int] = []
    assert draw_all([partial(pow, 2, number) for number in range(5)], lambda: done.append(os.getpid())) == [
        *(1, 2, 4, 8, 16)
    ]
    assert done == [os.getpid()]
    assert draw_all([partial(pow, 3, 2)]) == [9]


def test_what_a_figure_raises_comes_out_whole() -> None:
    with pytest.raises(OutputError, match="cannot write there"):
        draw_all([partial(pow, 2, 2), refuse])


@needs_processes
def test_a_process_that_ends_early_is_an_error() -> None:
    with pytest.raises(VclabError, match="ended early"):
        draw_all([partial(os._exit, 1), partial(os._exit, 1)])


@needs_processes
def test_ctrl_c_while_drawing_is_for_the_first_process_alone() -> None:
    code = (
        "import time; from functools import partial; from vclab.figures.parallel import draw_all\n"
        "draw_all([partial(time.sleep, 2)] * 4, lambda: print('drawing', flush=True))"
    )
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "drawing\n"
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert stderr.count("Traceback") == 1
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
