"""What every table of a recipe is: typed, immutable, closed to unknown keys."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A name that is also a folder's name."""

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the recipe: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    dials: ClassVar[tuple[str, ...]] = ()
    """Keys of the document from which others are derived; see openbook.dials."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = [*cls.dials, *cls.model_fields]
            for key in value:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
                    raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": key, "hint": hint})
        return value
