"""Rows in, weights out."""

from openbook.train.build import STAGE

__all__ = ["STAGE"]
