"""What workers have in common, loaded by the process that they are forked from.

Before Numba loads the first machine code it imports everything that it can compile, SciPy's linear algebra included:
about a second, once here rather than in every worker.
"""

from __future__ import annotations

import gc

from numba.core.registry import cpu_target

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()

# What is loaded stays: workers need not look through it for garbage, and so copy its memory, nor does the end.
gc.freeze()
