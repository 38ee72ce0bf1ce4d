"""The corpus as people read it: one page, and a datasheet."""

from openbook.corpus.report.build import STAGE

__all__ = ["STAGE"]
