"""What an engine elsewhere cannot do, from a table: a clear answer here in place of a strange one, or none, from there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from openbook.errors import InputError
from openbook.serve.errors import ApiError

PASSED_ON = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings")


class Kind(BaseModel):
    """One engine's entry. See capabilities.toml."""

    model_config = ConfigDict(extra="forbid")

    owned_by: list[str] = []
    salt: str | None = None
    paths: tuple[str, ...] = PASSED_ON
    refuses: dict[str, dict[str, str]] = {}
    renames: dict[str, dict[str, str]] = {}

    def fitted(self, path: str, body: dict[str, Any], tenant: str = "") -> dict[str, Any]:
        """The body without fields that ask for nothing and that the engine does not know, and with the tenant's salt.

        Raises ApiError 400 for what the engine cannot do.
        """
        if path not in self.paths:
            message = f"the engine behind the model {body.get('model')!r} has no {path}; of what this server passes on, it has "
            raise ApiError(400, message + ", ".join(self.paths), "model", "unsupported_by_upstream")
        refused = self.refuses.get(path, {})
        for fields, why in refused.items():
            names = fields.split("+")
            if all(_asks(name, body) for name in names):
                message = f"{' with '.join(names)}: not for the model {body.get('model')!r}: {why}"
                raise ApiError(400, message, names[0], "unsupported_by_upstream")
        salted = {self.salt: tenant} if self.salt and tenant and path.endswith("/completions") else {}
        renamed = self.renames.get(path, {})
        return {renamed.get(name, name): value for name, value in body.items() if name not in refused or _asks(name, body)} | salted


def _asks(name: str, body: dict[str, Any]) -> bool:
    value = body.get(name)
    if name in ("n", "best_of"):
        return value not in (None, 1) and not (name == "best_of" and value == body.get("n"))
    return value is not None and value is not False and value not in ("", [], {})


def load_capabilities(path: Path | None) -> dict[str, Kind]:
    """The table by kinds; openbook's own for None. Raises InputError."""
    file = path or Path(__file__).with_name("capabilities.toml")
    try:
        return TypeAdapter(dict[str, Kind]).validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"--capabilities {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--capabilities {file}: is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--capabilities {file}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
