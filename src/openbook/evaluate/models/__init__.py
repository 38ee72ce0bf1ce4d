"""Models that can be asked: three calls, whatever stands behind them."""

from openbook.evaluate.models.interface import CannotScore, DoesNotFit, LanguageModel, Request, Score, Written
from openbook.evaluate.models.opening import open_model

__all__ = ["CannotScore", "DoesNotFit", "LanguageModel", "Request", "Score", "Written", "open_model"]
