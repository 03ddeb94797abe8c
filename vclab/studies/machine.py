"""The machine that every study begins with: which one, how it is aged, and how many times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vclab import presets, recordings
from vclab.boot import RECORDED, check_paging, check_size
from vclab.system import System


class MachineParameters(BaseModel):
    """What may be set with ``--set NAME=VALUE`` or in a study file of any study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str = Field("zen3", description="CPU preset")
    linux: str = Field("6.18", description="Linux preset")
    memory: str = Field("recorded", description="size of the machine, or 'recorded'")
    recording: str = Field("compile", description="recording that the machine and its ageing come from")
    levels: Literal[4, 5] | None = Field(None, description="page-table levels; the CPU's most by default")
    direct_map: Literal["4K", "2M", "1G"] = Field("2M", description="page size of the direct map")
    fragment_order: Annotated[int, Field(ge=0, le=10)] = 9
    unusable: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="unusable free index to age to")
    free: Annotated[float, Field(gt=0, lt=1)] = Field(0.30, description="free share to age to")
    tail: Literal["never", "hour", "day"] = Field("hour", description="lifetime of what outlived the recording")
    audit: bool = Field(False, description="check after ageing that each frame is in one state and lists are whole")
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(5, description="independent ageings")
    seed: int = Field(1, ge=0, description="first seed")

    @model_validator(mode="after")
    def _machine_exists(self) -> Self:
        """Refuse presets and sizes that do not exist before any work is done."""
        if self.recording not in recordings.names() and not Path(self.recording).exists():
            known = ", ".join(recordings.names())
            raise ValueError(f"no recording {self.recording!r}; name a path, or one of those shipped: {known}")
        presets.linux(self.linux)
        check_paging(self.cpu, self.levels, self.direct_map)
        if self.memory != RECORDED:
            check_size(self.memory)
        return self

    @property
    def machine(self) -> str:
        """The machine in words."""
        return "recorded machine" if self.memory == RECORDED else self.memory

    def require_ascending(self, *names: str) -> None:
        """Refuse lists that do not ascend or name something twice; None is no list."""
        for name in names:
            values = getattr(self, name) or []
            if values != sorted(set(values)):
                raise ValueError(f"{name} must ascend, each value once")

    def age(self, system: System) -> dict[str, float]:
        """Age a machine as these parameters say; return what that took (:meth:`System.fragment`)."""
        aged = system.fragment(self.fragment_order, self.unusable, self.free, self.recording, self.tail)
        self.audited(system)
        return aged

    def audited(self, system: System) -> None:
        """Let a machine be audited if that was asked for (:meth:`System.audit`)."""
        if self.audit:
            system.audit()
