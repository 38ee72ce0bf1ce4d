"""Job files for clusters: a recipe's training, and an exported model's serving."""

from openbook.deploy.render import render
from openbook.deploy.serving import SERVING, render_serving

__all__ = ["SERVING", "render", "render_serving"]
