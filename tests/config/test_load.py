"""YAML reading: what is data, what is refused, and where the message points."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

from cmkd.config.base import Config
from cmkd.config.yaml_loader import MAX_BYTES, mistakes, read_yaml, suggest
from cmkd.errors import ConfigError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("7", 7),
        ("-7", -7),
        ("0", 0),
        ("'0'", "0"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("1:30", "1:30"),
        ("2020-12-05", "2020-12-05"),
        ("2020-13-45", "2020-13-45"),
        ("1e", "1e"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("[1, [2.5, a]]", [1, [2.5, "a"]]),
        ("{b: {c: 1}}", {"b": {"c": 1}}),
    ],
)
def test_plain_values(write, text: str, value: Any) -> None:
    found = read_yaml(write(f"a: {text}\n")).data["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["010", "9" * 5000])
def test_a_number_that_is_no_plain_integer_never_reads_as_one(write, text: str) -> None:
    assert type(read_yaml(write(f"a: {text}\n")).data["a"]) is not int


def test_the_shared_safe_loader_is_left_alone() -> None:
    assert yaml.safe_load("a: no") == {"a": False}
    assert yaml.safe_load("a: 1e-4") == {"a": "1e-4"}


def test_lines_of_keys(write) -> None:
    document = read_yaml(write("# comment\na:\n  b: 1\n  c:\n    - d: 2\ne: 3\n"))
    path = document.path
    assert document.where("a") == f"{path}:2"
    assert document.where("a", "b") == f"{path}:3"
    assert document.where("a", "nothing", "deeper") == f"{path}:2"
    assert document.where("e") == f"{path}:6"
    assert document.where("nothing") == str(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(write) -> None:
    assert read_yaml(write(b"\xef\xbb\xbfa: 1\n")).data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "is empty"),
        ("# only a comment\n", None, "is empty"),
        ("- a\n", None, "found list"),
        ("word\n", None, "found str"),
        ("a: [1\nb: 2\n", 2, "flow sequence"),
        ("a:\n\t- b\n", 2, "cannot start any token"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: 1\na: 2\n", 2, "given before, on line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "given before, on line 2"),
        ("a:\n  - {b: 1}\n  - {b: 1,\n     b: 2}\n", 4, "given before, on line 3"),
        ("1: 2\n", 1, "must be text"),
        ("null: 2\n", 1, "must be text"),
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("a: 1\nb: !!python/object/apply:os.system [touch]\n", 2, "tag"),
        ("a: !!int abc\n", 1, "tag"),
        ("a: !!bool maybe\n", 1, "tag"),
        ("a: !!timestamp abc\n", 1, "tag"),
        ("a: !!set {b, c}\n", 1, "tag"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("a: !own 1\n", 1, "tag"),
        (b"a: \xff\n", None, "UTF-8"),
        (b"a: \x00\n", None, "not YAML"),
        ("a: " + "[" * 900 + "]" * 900, 1, "nested"),
        ("a: " + "{b: " * 900 + "1" + "}" * 900, 1, "nested"),
    ],
)
def test_what_is_refused(write, text: str | bytes, line: int | None, says: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_an_alias_bomb_is_refused_before_it_is_built(write) -> None:
    rows = [
        f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]"
        for last, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(write("a: &a [x, x]\n" + "\n".join(rows)))


def test_a_file_too_large(write) -> None:
    with pytest.raises(ConfigError, match=f"{MAX_BYTES + 4} bytes"):
        read_yaml(write("a: #" + "x" * MAX_BYTES))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_suggestions() -> None:
    assert suggest("lamda_1", ["lambda_1", "lambda_2", "tg"]) == "; did you mean 'lambda_1'?"
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"


class _Inner(Config):
    size: int = Field(default=1, ge=1)


class _Outer(Config):
    inner: _Inner = _Inner()
    maybe: _Inner | None = None
    rate: float


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ('{"rate": 1, "rat": 2}', ("rat",), "unknown key 'rat'; did you mean 'rate'?"),
        (
            '{"rate": 1, "inner": {"sise": 2}}',
            ("inner", "sise"),
            "unknown key inner.'sise'; did you mean 'size'?",
        ),
        (
            '{"rate": 1, "maybe": {"sise": 2}}',
            ("maybe", "sise"),
            "unknown key maybe.'sise'; did you mean 'size'?",
        ),
        ('{"rate": "0"}', ("rate",), "rate: Input should be a valid number (got '0')"),
        (
            '{"rate": 1, "inner": {"size": 0}}',
            ("inner", "size"),
            "inner.size: Input should be greater than or equal to 1 (got 0)",
        ),
        ("{}", ("rate",), "rate: Field required"),
        ('{"rate": Infinity}', ("rate",), "rate: Input should be a finite number (got inf)"),
    ],
)
def test_explanations(text: str, keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate_json(text)
    assert mistakes(caught.value, _Outer) == [(keys, message)]


def test_an_integer_is_a_number_but_a_boolean_is_not() -> None:
    assert math.isclose(_Outer.model_validate_json('{"rate": 2}').rate, 2.0)
    with pytest.raises(ValidationError):
        _Outer.model_validate_json('{"rate": true}')
