"""Rows in, weights out."""

from openbook.train.build import STAGE, dismiss, follow, join_for, stage_with
from openbook.train.workers import require_enough_work

__all__ = ["STAGE", "dismiss", "follow", "join_for", "require_enough_work", "stage_with"]
