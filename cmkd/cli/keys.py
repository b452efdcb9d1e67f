"""``cmkd keys``: every key of a sweep file, from the models that check it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cmkd.errors import InputError

if TYPE_CHECKING:
    from cmkd.config.base import Config

Schema = Mapping[str, Any]

_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {} items",
    "minProperties": "at least {} entries",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}
_TYPES = {
    "integer": "int",
    "number": "float",
    "string": "str",
    "boolean": "bool",
    "null": "null",
    "object": "mapping",
}


class Key(NamedTuple):
    """One key: dotted name, type, bounds, default ("required" without one) and meaning."""

    key: str
    type: str
    range: str
    default: str
    meaning: str


def sections() -> Mapping[str, tuple[Key, ...]]:
    """Keys of a sweep file, of the settings in it, and of a prepared data set, by title."""
    from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
    from cmkd.config.sweep import SweepSpec
    from cmkd.config.trial import Setting

    return {
        "Sweep file": tuple(_keys(SweepSpec)),
        "Setting (keys of base, blocks and search.ranges)": tuple(_keys(Setting)),
        "Data set (options of cmkd data prepare, kept in dataset.json)": (
            *_keys(EncodingConfig, "encoding."),
            *_keys(ViewsConfig, "views."),
            *_keys(SplitConfig, "split."),
        ),
    }


def sweep_schema() -> dict[str, Any]:
    """JSON Schema of a sweep file, with the dotted keys of a setting spelt out."""
    from cmkd.config.sweep import NAME, SweepSpec
    from cmkd.config.trial import Setting

    schema, values = _schema(SweepSpec), dict(_fields(_schema(Setting)))
    # Dotted keys that lead into a mapping, as weights of extra losses do.
    below = {
        rf"^{re.escape(name)}\.": field["additionalProperties"]
        for name, field in values.items()
        if isinstance(field.get("additionalProperties"), Mapping)
    }

    def listed(fields: Schema) -> dict[str, Any]:
        """Schemas of a value, ``$NAME`` of a selection, or a list of them."""
        selection = {"type": "string", "pattern": r"^\$"}
        return {
            key: {
                "anyOf": [
                    *(field, selection),
                    {"type": "array", "items": {"anyOf": [field, selection]}},
                ]
            }
            for key, field in fields.items()
        }

    block = {
        "type": "object",
        "properties": listed(values),
        "patternProperties": listed(below),
        "additionalProperties": False,
    }
    single = {"properties": values, "patternProperties": below, "additionalProperties": False}
    schema["properties"]["base"] |= single
    blocks = {"patternProperties": {NAME: block}, "additionalProperties": False}
    schema["properties"]["blocks"] |= blocks
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _schema(model: type[Config]) -> dict[str, Any]:
    """JSON Schema of a model, with the models inside in place of references to them."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        own = {key: inlined(value) for key, value in part.items() if key != "$ref"}
        if "$ref" not in part:
            return own
        # The description of a model is none of the field that holds it.
        named = inlined(parts[part["$ref"].rpartition("/")[2]])
        return {key: value for key, value in named.items() if key != "description"} | own

    whole: dict[str, Any] = inlined(schema)
    return whole


def _keys(model: type[Config], prefix: str = "") -> Iterator[Key]:
    for name, field in _fields(_schema(model), prefix):
        bounds = [
            text.format(part[key])
            for part in (field, *field.get("anyOf", ()))
            for key, text in _BOUNDS.items()
            if key in part
        ]
        default = json.dumps(field["default"]) if "default" in field else "required"
        meaning = " ".join(field.get("description", "").split())
        yield Key(name, _kind(field), ", ".join(dict.fromkeys(bounds)), default, meaning)


def _fields(model: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Fields by dotted name, those of models inside too; the key of a mapping is ``NAME``."""
    for name, field in model["properties"].items():
        values = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
        inside = {"": field.get("anyOf", [field]), "NAME.": values}
        models = {
            step: part
            for step, parts in inside.items()
            for part in parts
            if isinstance(part, Mapping) and "properties" in part
        }
        if not models or "description" in field:
            yield f"{prefix}{name}", field
        for step, part in models.items():
            yield from _fields(part, f"{prefix}{name}.{step}")


def _kind(field: Schema) -> str:
    if "anyOf" in field:
        return " | ".join(dict.fromkeys(map(_kind, field["anyOf"])))
    if "enum" in field or "const" in field:
        return " | ".join(map(str, field.get("enum", [field.get("const")])))
    if field.get("type") == "array":
        items = _kind(field.get("items", {}))
        return f"list of {items}" if " | " not in items else f"list of ({items})"
    return _TYPES.get(field.get("type", ""), "any")


def keys(
    prefix: Annotated[
        str, typer.Argument(help="Only keys that begin so: method, or training.lr.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON Schema of a sweep file, for editors.")
    ] = False,
) -> None:
    """List every key that a sweep file may set: type, range, default, meaning."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cmkd.config.yaml_loader import suggest

    if as_json:
        typer.echo(json.dumps(sweep_schema(), indent=2))
        return
    known = sections()
    found = {
        title: [key for key in listed if key.key.startswith(prefix)]
        for title, listed in known.items()
    }
    if not any(found.values()):
        names = [key.key for listed in known.values() for key in listed]
        raise InputError(f"no key begins with {prefix!r}{suggest(prefix, names)}")
    console = Console()
    if not console.is_terminal:
        console.width = 1000
    for title, listed in found.items():
        if listed:
            table = Table(*Key._fields, box=None, pad_edge=False)
            for key in listed:
                table.add_row(*map(Text, key))
            console.print(Text(f"\n{title}", style="bold"), table, sep="\n")
