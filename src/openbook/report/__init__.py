"""The page that shows how a model was made, rendered from a run's manifest, logbook and scores."""

from openbook.report.build import STAGE, render

__all__ = ["STAGE", "render"]
