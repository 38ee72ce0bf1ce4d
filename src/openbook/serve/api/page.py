"""The OpenAPI document, from the request models themselves, and a page that shows it without anything from elsewhere."""

from __future__ import annotations

from typing import Any

import jinja2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from openbook.serve.api.wire import Wire

REFERENCE = "#/components/schemas/{model}"

PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>openbook API</title>
<meta name="viewport" content="width=device-width">
<style>body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
td,th{text-align:left;vertical-align:top;padding:.2rem .6rem;
border-bottom:1px solid #8885}
code{font-size:.95em}</style>
<h1>openbook API</h1><p>As a document for machines: <a href="openapi.json">openapi.json</a>.
{% for path, methods in paths.items() %}{% for method, what in methods.items() %}
<h2 id="{{ what.operationId }}"><code>{{ method | upper }} {{ path }}</code></h2><p>{{ what.description }}</p>
{% if what.fields %}<table><tr><th>field<th>type<th>default<th>bounds</tr>
{% for name, field in what.fields.items() %}
<tr><td><code>{{ name }}</code><td>{{ field.kind }}<td>{{ field.default }}<td>{{ field.bounds }}</tr>
{% endfor %}</table>{% endif %}{% endfor %}{% endfor %}</html>
"""


def body_of(model: type[Wire]) -> dict[str, Any]:
    """What FastAPI adds to a route whose body is read by `Wire.parse`."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}}
    }


def document(app: FastAPI, models: list[type[Wire]]) -> dict[str, Any]:
    """The OpenAPI document of an application whose routes refer to these models."""
    content = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas: dict[str, Any] = content.setdefault("components", {}).setdefault("schemas", {})
    for model in models:
        schema = model.model_json_schema(ref_template=REFERENCE)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return content


def page(content: dict[str, Any]) -> str:
    """The document as HTML."""
    schemas = content["components"]["schemas"]
    for methods in content["paths"].values():
        for what in methods.values():
            body = what.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = schemas.get(body.get("$ref", "").rpartition("/")[2], {})
            required = schema.get("required", [])
            what["fields"] = {name: _row(field, name in required) for name, field in schema.get("properties", {}).items()}
    return jinja2.Environment(autoescape=True).from_string(PAGE).render(paths=content["paths"])


def _row(field: dict[str, Any], required: bool) -> dict[str, str]:
    kinds = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    bounds = [f"{word} {value}" for option in kinds for word, value in option.items() if word in BOUNDS]
    default = "required" if required else str(field.get("default", ""))
    return {"kind": " or ".join(map(_kind, kinds)), "default": default, "bounds": ", ".join(bounds)}


BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "maxItems", "minItems", "pattern")


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return " or ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = str(schema.get("type", "any"))
    return f"array of {_kind(schema['items'])}" if kind == "array" and isinstance(schema.get("items"), dict) else kind
