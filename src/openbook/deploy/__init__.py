"""Job files for clusters, rendered from a recipe."""

from openbook.deploy.render import render

__all__ = ["render"]
