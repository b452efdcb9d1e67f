"""YAML files read as plain data with line numbers; every mistake names file, line and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cmkd.errors import ConfigError

KeyPath = tuple[str, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
_INT = re.compile(r"[-+]?(0|[1-9]\d{0,17})$")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads numbers and booleans as in YAML 1.2.

    ``1e-4`` is a float; ``no``, ``1:30`` and ``2020-12-05`` are strings; ``010`` is not 8.
    """

    yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0].rpartition(":")[2] in ("null", "merge", "value")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


@dataclass(frozen=True)
class Document:
    """Parsed YAML mapping and the line of each key."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[KeyPath, int]

    def where(self, *keys: str) -> str:
        """``file:line`` of the longest prefix of `keys` in the file."""
        for length in range(len(keys), 0, -1):
            line = self.lines.get(keys[:length])
            if line is not None:
                return f"{self.path}:{line}"
        return str(self.path)


def read_yaml(path: Path) -> Document:
    """Read one YAML mapping.

    Raises:
        ConfigError: unreadable file, no mapping, duplicate key, alias, tag, or deep nesting.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes is too large for a config; split it")
    lines: dict[KeyPath, int] = {}
    try:
        text = raw.decode("utf-8")
        _check_plain_data(path, text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path}: is empty")
        _walk(path, node, (), lines)
        data = loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{path}{line}: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, found {type(data).__name__}")
    return Document(path, data, lines)


def _check_plain_data(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        assert event.start_mark is not None
        where = f"{path}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}: aliases (*name) are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"{where}: tags (!name) are not allowed; remove it")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")


def _walk(path: Path, node: yaml.Node, keys: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _walk(path, item, (*keys, str(position)), lines)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "of many parts"
            raise ConfigError(f"{path}:{line}: key {shown} must be text; quote it")
        here = (*keys, str(key.value))
        if here in lines:
            raise ConfigError(
                f"{path}:{line}: key {key.value!r} was given before, on line {lines[here]}"
            )
        lines[here] = line
        _walk(path, value, here, lines)


def suggest(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if a known name is near, else the list of known names."""
    choices = sorted(known)
    near = difflib.get_close_matches(wrong, choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(choices)}"


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[KeyPath, str]:
    """Key path and one-line message of the first problem found by pydantic."""
    # A misspelt key is both unknown and missing; only the first of the two shows the typo.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    keys = tuple(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, keys[:-1])
        known = owner.model_fields if owner else ()
        parent = ".".join(keys[:-1])
        name = f"{parent}.{keys[-1]!r}" if parent else repr(keys[-1])
        return keys, f"unknown key {name}{suggest(keys[-1], known)}"
    message = str(first["msg"]).removeprefix("Value error, ")
    shown = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r})"
    label = ".".join(keys)
    return keys, f"{label}: {message}{shown}" if label else f"{message}{shown}"


def _model_at(model: type[BaseModel], keys: KeyPath) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for key in keys:
        field = current.model_fields.get(key) if current else None
        annotation = field.annotation if field else None
        options = [annotation, *get_args(annotation)]
        current = next(
            (kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel)),
            None,
        )
    return current
