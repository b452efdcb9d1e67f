"""``cmkd keys``: every key of a sweep file, from the models that check it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmkd.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

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
_TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "null"}


@dataclass(frozen=True)
class Key:
    """One key: dotted name, type, bounds, default ("required" without one) and meaning."""

    name: str
    type: str
    range: str
    default: str
    meaning: str


def sections() -> Mapping[str, tuple[Key, ...]]:
    """Keys of a sweep file, of the settings in it, and of a prepared data set, by title."""
    from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
    from cmkd.config.spec import SweepSpec
    from cmkd.config.trial import Setting

    data: dict[str, type[BaseModel]] = {
        "encoding": EncodingConfig,
        "views": ViewsConfig,
        "split": SplitConfig,
    }
    return {
        "Sweep file": tuple(_keys(SweepSpec)),
        "Setting (keys of base, blocks and search.ranges)": tuple(_keys(Setting)),
        "Data set (options of cmkd data prepare, kept in dataset.json)": tuple(
            key for name, model in data.items() for key in _keys(model, f"{name}.")
        ),
    }


def sweep_schema() -> dict[str, Any]:
    """JSON Schema of a sweep file, with the dotted keys of a setting spelt out."""
    from cmkd.config.spec import SweepSpec
    from cmkd.config.trial import Setting

    settings = Setting.model_json_schema()
    values = {name: field for name, field in _fields(settings, settings) if "$ref" not in field}
    lists = {
        name: {"type": "array", "items": {"anyOf": [field, {"type": "string", "pattern": r"^\$"}]}}
        for name, field in values.items()
    }
    schema = SweepSpec.model_json_schema()
    fields = schema["properties"]
    single = {"properties": values, "patternProperties": _mappings(values)}
    listed = {"properties": lists, "patternProperties": {key: {} for key in _mappings(values)}}
    fields["base"] |= {**single, "additionalProperties": False}
    block = {"type": "object", **listed, "additionalProperties": False}
    fields["blocks"] = {
        name: value for name, value in fields["blocks"].items() if name != "patternProperties"
    } | {"additionalProperties": block}
    named = {**settings.get("$defs", {}), **schema.pop("$defs", {})}
    kept: dict[str, Any] = {}
    while missing := _references({**schema, "$defs": kept}) - kept.keys():
        kept |= {name: named[name] for name in missing}
    document: dict[str, Any] = _untitled({**schema, "$defs": kept})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _mappings(values: Mapping[str, Schema]) -> dict[str, Any]:
    """Patterns of the dotted keys that lead into a mapping, with the schemas of its values."""
    return {
        f"^{re.escape(name)}\\.": field["additionalProperties"]
        for name, field in values.items()
        if isinstance(field.get("additionalProperties"), Mapping)
    }


def _references(schema: Schema) -> set[str]:
    return set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))


def _untitled(part: Any) -> Any:
    """Without the titles that pydantic makes of names in the code."""
    if isinstance(part, list):
        return [_untitled(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        name: _untitled(value)
        for name, value in part.items()
        if name != "title" or not isinstance(value, str)
    }


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    schema = model.model_json_schema()
    for name, field in _fields(schema, schema, prefix):
        kind, bounds = _type(field, schema)
        default = json.dumps(field["default"]) if "default" in field else "required"
        yield Key(name, kind, bounds, default, field.get("description", ""))


def _fields(model: Schema, root: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Fields without parts of their own by dotted name; a mapping's key is shown as ``NAME``."""
    required = model.get("required", ())
    for name, field in model.get("properties", {}).items():
        inner = _model(field, root)
        below = next((found for part in _values(field) if (found := _model(part, root))), None)
        if inner is not None and "description" not in field:
            yield from _fields(inner, root, f"{prefix}{name}.")
            continue
        # A default of a required field would be one that pydantic has to make.
        yield (
            f"{prefix}{name}",
            {k: v for k, v in field.items() if k != "default"} if (name in required) else field,
        )
        if inner is not None or below is not None:
            step = "" if below is None else "NAME."
            yield from _fields(inner or below or {}, root, f"{prefix}{name}.{step}")


def _values(field: Schema) -> Sequence[object]:
    """Schemas of the values of a mapping, whatever its names."""
    return (field.get("additionalProperties"), *field.get("patternProperties", {}).values())


def _model(field: object, root: Schema) -> Schema | None:
    """The schema of the model that `field` holds, if it holds one."""
    if not isinstance(field, Mapping):
        return None
    for part in (field, *field.get("anyOf", ())):
        if "$ref" in part:
            found: Schema = root["$defs"][part["$ref"].rpartition("/")[2]]
            if "properties" in found:
                return found
    return None


def _type(field: Schema, root: Schema) -> tuple[str, str]:
    parts: Sequence[Schema] = field.get("anyOf", (field,))
    kinds = [_kind(part, root) for part in parts]
    bounds = [
        text.format(p[key]) for p in (field, *parts) for key, text in _BOUNDS.items() if key in p
    ]
    return " | ".join(dict.fromkeys(kinds)), ", ".join(dict.fromkeys(bounds))


def _kind(part: Schema, root: Schema) -> str:
    if "$ref" in part:
        found: Schema = root["$defs"][part["$ref"].rpartition("/")[2]]
        return "mapping" if "properties" in found else _kind(found, root)
    if "enum" in part or "const" in part:
        return " | ".join(map(str, part.get("enum", [part.get("const")])))
    if part.get("type") == "array":
        items = _kind(part.get("items", {}), root)
        return f"list of {items}" if " | " not in items else f"list of ({items})"
    return "mapping" if part.get("type") == "object" else _TYPES.get(part.get("type", ""), "any")


def markdown() -> str:
    """The sections as Markdown tables, for the documentation."""
    lines: list[str] = []
    for title, keys in sections().items():
        lines += [
            f"### {title}",
            "",
            "| key | type | range | default | meaning |",
            "|---|---|---|---|---|",
        ]
        for key in keys:
            kind, meaning = (text.replace("|", "\\|") for text in (key.type, key.meaning))
            lines.append(f"| `{key.name}` | {kind} | {key.range} | `{key.default}` | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def keys(
    prefix: Annotated[
        str, typer.Argument(help="Only keys that begin so: method, or training.lr.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON Schema of a sweep file, for editors.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown tables.", hidden=True)
    ] = False,
) -> None:
    """List every key that a sweep file may set: type, range, default, meaning."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cmkd.config.yaml_loader import suggest

    if as_json or as_markdown:
        typer.echo(json.dumps(sweep_schema(), indent=2) if as_json else markdown())
        return
    found = {
        title: [key for key in listed if key.name.startswith(prefix)]
        for title, listed in sections().items()
    }
    if not any(found.values()):
        known = [key.name for listed in sections().values() for key in listed]
        raise InputError(f"no key begins with {prefix!r}{suggest(prefix, known)}")
    console = Console()
    if not console.is_terminal:
        console.width = 1000
    for title, listed in found.items():
        if listed:
            table = Table("key", "type", "range", "default", "meaning", box=None, pad_edge=False)
            for key in listed:
                cells = (key.name, key.type, key.range, key.default, key.meaning)
                table.add_row(*map(Text, cells))
            console.print(Text(f"\n{title}", style="bold"), table, sep="\n")
