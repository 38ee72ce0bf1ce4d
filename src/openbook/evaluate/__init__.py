"""Weights in, scores out: bits per byte on held-out text beside baselines, and samples."""

from openbook.evaluate.build import STAGE

__all__ = ["STAGE"]
