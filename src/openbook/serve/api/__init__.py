"""The HTTP application: `create_app` makes it of a `Desk`, which holds models and limits; nothing in it is global."""

from openbook.serve.api.app import create_app
from openbook.serve.api.desk import Desk, Limits

__all__ = ["Desk", "Limits", "create_app"]
