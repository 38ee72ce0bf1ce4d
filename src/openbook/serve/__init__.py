"""Weights in, text out: a completion in this process, or an OpenAI-compatible API."""

from openbook.serve.local import complete
from openbook.serve.server import Options, serve

__all__ = ["Options", "complete", "serve"]
