"""Exit codes are what a calling script sees of an error."""

import pickle

import pytest

from cmkd import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.CmkdError, 1),
        (errors.TrialFailed, 1),
        (errors.InputError, 2),
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.InfrastructureError, 3),
    ],
)
def test_exit_codes(kind: type[errors.CmkdError], code: int) -> None:
    assert issubclass(kind, errors.CmkdError)
    assert kind.exit_code == code


def test_user_mistakes_are_input_errors() -> None:
    assert issubclass(errors.ConfigError, errors.InputError)
    assert issubclass(errors.DataError, errors.InputError)
    assert not issubclass(errors.TrialFailed, errors.InputError)


def test_an_error_keeps_its_fields_across_processes() -> None:
    error = errors.InputError("a.yaml: no such key", "remove it")
    again = pickle.loads(pickle.dumps(error))
    assert (again.problem, again.remedy) == ("a.yaml: no such key", "remove it")
    assert str(again) == "a.yaml: no such key; remove it"
    assert str(errors.InputError("no such key")) == "no such key"
