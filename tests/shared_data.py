"""Where tests find published data sets: $OPENBOOK_DATA, or ../shared/data beside the project; else they are skipped, loudly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("OPENBOOK_DATA") or Path(__file__).parents[2] / "shared" / "data").resolve()


def needs_data(part: str) -> pytest.MarkDecorator:
    """For tests that read a folder of the data."""
    return pytest.mark.skipif(not (DATA / part).is_dir(), reason=f"no {part}/ in {DATA}; OPENBOOK_DATA names the folder that has it")
