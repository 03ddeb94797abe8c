"""What every preset is made of: values with an origin, and the walk over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
Count = Annotated[int, Field(strict=True, gt=0)]
WholeNumber = Annotated[int, Field(strict=True, ge=0)]
Quantity = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(pattern=r"\S")]
Name = Annotated[str, Field(pattern="^[a-z0-9-]+$")]


class Number(NamedTuple):
    """One row of a provenance table: where a number stands in its preset, and where it comes from."""

    path: str
    value: Any
    text: str
    is_estimate: bool
    range: str | None = None
    """What sources or reasoning allow, of a price."""


class Model(BaseModel):
    """A part of a preset: frozen, and without fields that the schema does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sourced(Model, Generic[T]):
    """A value with the document or measurement it was read from, or the reasoning it was estimated by."""

    value: T
    source: Text | None = None
    estimate: Text | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.source is None) == (self.estimate is None):
            raise ValueError("a value needs exactly one of source and estimate")
        return self


class Labelled(Sourced[T], Generic[T]):
    """A sourced value with a label: the Linux release it was read from."""

    label: Text


class Ranged(Sourced[Quantity]):
    """A sourced value and the range, ``low`` to ``high``, that sources or reasoning allow."""

    low: Amount
    high: Quantity

    @model_validator(mode="after")
    def _value_in_range(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the value {self.value:g} is not in its range from {self.low:g} to {self.high:g}")
        return self


class Cost(Ranged):
    """A price with its range, labelled with the Linux release it was read from."""

    label: Text


class Preset(Model):
    """What CPU and Linux presets share: a name (that of the file), a title, and their list of numbers."""

    name: Text
    title: Text

    def numbers(self) -> list[Number]:
        """Return every sourced number with its dotted path, in the order of the model's fields."""
        return list(_numbers(self, ""))


def _numbers(item: object, path: str) -> Iterator[Number]:
    if isinstance(item, Sourced):
        span = f"{item.low:g} to {item.high:g}" if isinstance(item, Ranged) else None
        yield Number(path, item.value, item.source or item.estimate or "", item.source is None, span)
    elif isinstance(item, Model):
        for field in type(item).model_fields:
            yield from _numbers(getattr(item, field), f"{path}.{field}".lstrip("."))
    elif isinstance(item, tuple):
        for member in item:
            yield from _numbers(member, f"{path}.{member.name}")
