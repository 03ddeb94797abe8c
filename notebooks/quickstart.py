# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # vclab in five minutes
#
# A large kernel allocation cannot be physically contiguous. A virtually contiguous one stands in for it. What does
# that cost?

# %%
import numpy as np

import vclab
from vckernels.buddy import describe_frames
from vclab import GFP_KERNEL, GFP_VFALLBACK
from vclab.figures.memory import frame_picture

system = vclab.System(cpu="zen3", memory="512MiB", policy="early-fallback", seed=1)
system

# %% [markdown]
# ## Age memory
#
# Blocks of a recorded mix arrive and die until 95 % of the free memory is of no use to a request of order 9 (2 MiB).

# %%
system.fragment(order=9, unusable=0.95, free=0.30)

# %%
system.buddyinfo()

# %% [markdown]
# Every frame of the machine:

# %%
states = np.empty(system.memory.zone.frames, np.uint8)
describe_frames(system.memory.zone.buddy, states)
frame_picture(states)

# %% [markdown]
# ## Ask for large pages
#
# As long as a block of 512 frames is left the page is physical; after that a virtual one stands in.

# %%
pages = [system.alloc_pages(9, GFP_KERNEL | GFP_VFALLBACK) for _ in range(32)]
physical = [page for page in pages if not page.is_virtual]
virtual = [page for page in pages if page.is_virtual]
len(physical), len(virtual)

# %%
virtual[0]

# %% [markdown]
# ## Access them
#
# A pointer chase through four pages (8 MiB), first through physical ones, then through virtual ones. The first pass
# warms the TLB and is not counted.

# %%
for kind, chosen in (("physical", physical[:4]), ("virtual", virtual[:4])):
    offsets = vclab.streams.chase(4 * chosen[0].nbytes, 200_000, seed=1)
    system.mmu.flush()
    system.access(chosen, offsets)
    cost = system.access(chosen, offsets)
    print(f"{kind:9} {cost.cycles / cost.accesses:6.2f} cycles per access, {cost.walks:,} page walks")

# %%
cost

# %% [markdown]
# ## What if?
#
# A copy asks what another policy would have done with the same machine.

# %%
other = system.copy(policy="physical")
try:
    while True:
        other.alloc_pages(9, GFP_KERNEL | GFP_VFALLBACK)
except vclab.OutOfMemory as error:
    print(error)

# %%
for page in pages:
    system.free_pages(page)
system.ledger
