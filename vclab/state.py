"""Kernel state: NamedTuples of arrays that an object owns."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

State = TypeVar("State", bound="tuple[Any, ...]")


def copied(state: State) -> State:
    """Return the same state in arrays of its own; scalars and nested states are copied too."""
    fields = [
        field.copy() if isinstance(field, np.ndarray) else copied(field) if isinstance(field, tuple) else field
        for field in state
    ]
    return type(state)(*fields)
