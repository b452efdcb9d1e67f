"""YAML files read as plain data with line numbers; every mistake names file, line and key."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cmkd.errors import ConfigError

KeyPath = tuple[str, ...]
Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
_INT = re.compile(r"[-+]?(0|[1-9]\d{0,17})$")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads numbers and booleans as in YAML 1.2, and refuses aliases and tags.

    ``1e-4`` is a float; ``no``, ``1:30`` and ``2020-12-05`` are strings; ``010`` is not 8.
    """

    yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0].rpartition(":")[2] in ("null", "merge", "value")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, as ``yaml.composer`` calls it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not allowed; write the value out"
        elif event.tag is not None:
            problem = "tags (!name) are not allowed; remove it"
        elif self._depth == MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


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
        known = (keys[:length] for length in range(len(keys), 0, -1))
        line = next((self.lines[prefix] for prefix in known if prefix in self.lines), None)
        return f"{self.path}:{line}" if line else str(self.path)


def read_model(path: Path, model: type[Model]) -> tuple[Model, Document]:
    """Read a YAML file as a model.

    Raises:
        ConfigError: as `read_yaml`; keys and values that the model refuses, a line for each.
    """
    document, found = read_yaml(path), Mistakes()
    read = found.parse(document, model)
    if found.lines or read is None:
        raise found.error
    return read, document


def parse(data: Mapping[str, Any], model: type[Model]) -> Model:
    """The data of a YAML file as a model; lists stand for tuples.

    Raises:
        ValidationError: keys and values that the model refuses.
    """
    return model.model_validate_json(json.dumps(data, default=str))


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
        loader = _Loader(raw.decode("utf-8"))
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path}: is empty")
        _add_lines(node, (), lines)
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


def _add_lines(node: yaml.Node, above: KeyPath, lines: dict[KeyPath, int]) -> None:
    """Lines of all keys below a node; every key must be text and stand once in its mapping."""
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _add_lines(item, (*above, str(position)), lines)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        keys = (*above, str(key.value))
        problem = ""
        if key.tag != "tag:yaml.org,2002:str":
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "of many parts"
            problem = f"key {shown} must be text; quote it"
        elif keys in lines:
            problem = f"key {key.value!r} was given before, on line {lines[keys]}"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        lines[keys] = key.start_mark.line + 1
        _add_lines(value, keys, lines)


def suggest(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if a known name is near, else the list of known names."""
    choices = sorted(known)
    near = difflib.get_close_matches(wrong, choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(choices)}"


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All that pydantic found, in one line."""
    return "; ".join(text for _, text in mistakes(error, model))


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[tuple[KeyPath, str]]:
    """Key path and one-line message of each problem found by pydantic, unknown keys first."""
    found: dict[KeyPath, str] = {}
    missing: list[KeyPath] = []
    for one in sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden"):
        keys = tuple(str(part) for part in one["loc"])
        *parents, name = keys or ("",)
        if one["type"] == "extra_forbidden":
            known = _fields_at(model, parents)
            shown = f"{'.'.join(parents)}.{name!r}" if parents else repr(name)
            found[keys] = f"unknown key {shown}{suggest(name, known)}"
            missing += [(*parents, near) for near in difflib.get_close_matches(name, known, n=1)]
            continue
        if one["type"] == "missing" and keys in missing:
            continue  # A misspelt key is both unknown and missing; the first shows the typo.
        message = str(one["msg"]).removeprefix("Value error, ")
        if one["type"] not in ("missing", "value_error"):
            message += f" (got {one['input']!r})"
        found.setdefault(keys, f"{'.'.join(keys)}: {message}" if keys else message)
    return list(found.items())


class Mistakes:
    """Mistakes in one file, a line for each, in the order in which they were found."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    def add(self, *lines: str) -> None:
        """Keep the lines that are new."""
        self.lines |= dict.fromkeys(lines)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep the mistakes that the block raises."""
        try:
            yield
        except ConfigError as error:
            self.add(*error.problem.splitlines())

    @property
    def error(self) -> ConfigError:
        """All mistakes."""
        return ConfigError("\n".join(self.lines))

    def parse(self, document: Document, model: type[Model], **missing: Any) -> Model | None:
        """The model without the parts that are wrong; None if the rest is none.

        Args:
            missing: values of required fields, to look for further mistakes with.
        """
        try:
            return parse(document.data, model)
        except ValidationError as error:
            wrong = mistakes(error, model)
        self.add(*(f"{document.where(*keys)}: {text}" for keys, text in wrong))
        rest = copy.deepcopy(document.data)
        for keys, _ in wrong:
            path = [key for key in keys if key != "[key]"]
            inside: Any = rest
            for key in path[:-1]:
                inside = inside.get(key) if isinstance(inside, dict) else None
            if path and isinstance(inside, dict):
                inside.pop(path[-1], None)
        with suppress(ValidationError):
            return parse({**missing, **rest}, model)
        return None


def _fields_at(model: type[BaseModel], keys: Sequence[str]) -> Collection[str]:
    """Fields of the model at `keys` inside of `model`; none if there is no single one."""
    for key in keys:
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        inside = [
            part
            for part in (annotation, *get_args(annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        if not inside:
            return ()
        model = inside[0]
    return model.model_fields
