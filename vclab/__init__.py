"""vclab: what does it cost when a large kernel allocation cannot be physically contiguous?

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AccessCost": "vclab.ledger",
    "Background": "vclab.background",
    "CompoundPage": "vclab.compound",
    "ConfigurationError": "vclab.errors",
    "FragmentationNotReached": "vclab.errors",
    "GFP_ATOMIC": "vclab.gfp",
    "GFP_KERNEL": "vclab.gfp",
    "GFP_VFALLBACK": "vclab.gfp",
    "Gfp": "vclab.gfp",
    "InvalidFree": "vclab.errors",
    "MmuOptions": "vclab.mmu",
    "OutOfMemory": "vclab.errors",
    "OutputError": "vclab.errors",
    "RecordingError": "vclab.errors",
    "System": "vclab.system",
    "TlbLevel": "vclab.mmu",
    "VclabError": "vclab.errors",
    "chase": "vclab.latency",
    "tlb_misses": "vclab.mmu",
}
_MODULES = ("presets", "recordings", "streams", "studies")

if TYPE_CHECKING:
    from vclab import presets, recordings, streams, studies
    from vclab.background import Background
    from vclab.compound import CompoundPage
    from vclab.errors import (
        ConfigurationError,
        FragmentationNotReached,
        InvalidFree,
        OutOfMemory,
        OutputError,
        RecordingError,
        VclabError,
    )
    from vclab.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_VFALLBACK, Gfp
    from vclab.latency import chase
    from vclab.ledger import AccessCost
    from vclab.mmu import MmuOptions, TlbLevel, tlb_misses
    from vclab.system import System

__all__ = [
    "GFP_ATOMIC",
    "GFP_KERNEL",
    "GFP_VFALLBACK",
    "AccessCost",
    "Background",
    "CompoundPage",
    "ConfigurationError",
    "FragmentationNotReached",
    "Gfp",
    "InvalidFree",
    "MmuOptions",
    "OutOfMemory",
    "OutputError",
    "RecordingError",
    "System",
    "TlbLevel",
    "VclabError",
    "chase",
    "presets",
    "recordings",
    "streams",
    "studies",
    "tlb_misses",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"vclab.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vclab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
