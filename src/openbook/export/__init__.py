"""Weights out: a Hugging Face folder that other tools load as it is."""

from openbook.export.build import STAGE

__all__ = ["STAGE"]
