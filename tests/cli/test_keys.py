"""``cmkd keys`` and the JSON Schema of sweep files, against the models themselves."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError
from typer.testing import CliRunner

import cmkd.config
from cmkd.cli.keys import sections, sweep_schema
from cmkd.cli.main import app
from cmkd.config.base import Config
from cmkd.config.yaml_loader import read_yaml

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {"TrialConfig", "Reading", "ReaderConfig", "DatasetInfo", "OfficialPart"}
"""Configs that code fills in, never a user."""


def models(base: type[Config] = Config) -> Iterator[type[Config]]:
    for module in pkgutil.iter_modules(cmkd.config.__path__):
        importlib.import_module(f"cmkd.config.{module.name}")
    for model in base.__subclasses__():
        yield model
        yield from models(model)


def listed() -> dict[str, str]:
    return {key.key: key.meaning for keys in sections().values() for key in keys}


@pytest.mark.parametrize(
    "model",
    [
        one
        for one in models()
        if one.__module__.startswith("cmkd.config") and one.__name__ not in RECORDS
    ],
)
def test_every_field_of_every_config_is_a_key(model: type[Config]) -> None:
    names = listed()
    for field, info in model.model_fields.items():
        is_group = isinstance(info.annotation, type) and issubclass(info.annotation, Config)
        # A field is found by its own name and meaning, whatever stands before it.
        found = [
            name
            for name, meaning in names.items()
            if name.split(".")[-1] == field
            and meaning == " ".join((info.description or "").split())
        ]
        below = [name for name in names if f".{field}." in f".{name}"]
        assert below if is_group else found, f"{model.__name__}.{field} is no key"


def test_every_key_has_type_default_and_meaning() -> None:
    keys = [key for keys in sections().values() for key in keys]
    assert all(key.meaning and key.type not in ("", "any") and key.default for key in keys)
    by_name = {key.key: key for key in keys}
    assert by_name["training.lr"].range == "> 0"
    assert by_name["method.gate"].type == "off | softmax | sigmoid"
    assert by_name["student.p_backbone"].default == "null"
    assert by_name["select.NAME.key"].default == "required"


def test_the_schema_takes_the_packaged_specs_and_refuses_typos() -> None:
    schema = sweep_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for path in (ROOT / "sweeps").glob("*.yaml"):
        validator.validate(read_yaml(path).data)
    spec = {"name": "t", "description": "d", "blocks": {"a": {"method.lambda_1": [0.1, "$x"]}}}
    validator.validate(spec)
    validator.validate({**spec, "blocks": {"a": {"method.lambda_1": 0.1, "method.tg": [[1]]}}})
    for wrong in (
        {**spec, "blocks": {"a": {"method.lambda_1": "much"}}},
        {**spec, "blocks": {"a": {"method.lamda_1": [0.1]}}},
        {**spec, "base": {"training.epochs": 0}},
        {**spec, "seed": 3},
    ):
        with pytest.raises(ValidationError):
            validator.validate(wrong)


def test_the_command_lists_by_prefix() -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["keys", "method.lambda"])
    assert done.exit_code == 0
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("method.")]
    assert lines == [name for name in listed() if name.startswith("method.lambda")]
    schema = runner.invoke(app, ["keys", "--json"])
    assert json.loads(schema.stdout) == sweep_schema()
    assert "did you mean" in str(runner.invoke(app, ["keys", "metod"]).exception)
