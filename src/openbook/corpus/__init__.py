"""Sources in, clean documents out, with a reason for every removal."""

from openbook.corpus.build import STAGE

__all__ = ["STAGE"]
