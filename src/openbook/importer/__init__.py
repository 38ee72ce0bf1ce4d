"""A model from elsewhere becomes a run directory."""

from openbook.importer.build import import_model

__all__ = ["import_model"]
