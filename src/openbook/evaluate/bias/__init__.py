"""What a model has taken in about groups of people, by published measures in one fixed form each."""

from openbook.evaluate.bias.audit import MEASURES, audit_all, measures
from openbook.evaluate.bias.measure import Options
from openbook.evaluate.bias.table import table

__all__ = ["MEASURES", "Options", "audit_all", "measures", "table"]
