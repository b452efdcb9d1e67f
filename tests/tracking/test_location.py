"""Tracking URIs."""

from __future__ import annotations

import os

import pytest

from cmkd.errors import InputError
from cmkd.tracking.store import checked_uri, default_uri, redact, sqlite_file, store_exists


def test_the_default_is_where_a_bare_mlflow_ui_looks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert default_uri() == "http://127.0.0.1:1"


def test_a_relative_sqlite_file_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checked_uri("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert sqlite_file("sqlite:///a.db") == tmp_path / "a.db"
    assert sqlite_file("http://host") is None


def test_the_driver_of_postgresql_is_named_where_the_user_has_named_none():
    assert checked_uri("postgresql://me@h/db") == "postgresql+psycopg://me@h/db"
    for uri in ("postgresql+psycopg://me@h/db", "postgresql+pg8000://h/db", "http://h:5000"):
        assert checked_uri(uri) == uri


def test_only_a_missing_sqlite_file_does_not_exist(tmp_path):
    uri = f"sqlite:///{tmp_path}/a.db"
    assert not store_exists(uri)
    (tmp_path / "a.db").touch()
    assert store_exists(uri)
    assert store_exists("http://host:5000")


def test_a_folder_that_no_uri_can_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a?b").mkdir()
    monkeypatch.chdir(tmp_path / "a?b")
    with pytest.raises(InputError, match="question mark"):
        default_uri()
    with pytest.raises(InputError, match="not supported"):
        checked_uri(f"sqlite:///{tmp_path}/a?b/mlflow.db")


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///x", "foo://x", "sqlite://", "./mlflow.db", "databricks"]
)
def test_other_stores_are_refused(uri):
    with pytest.raises(InputError, match="sqlite:///FILE"):
        checked_uri(uri)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/none: no such folder"):
        checked_uri(f"sqlite:///{tmp_path}/none/a.db")


def test_a_read_only_folder_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        checked_uri(f"sqlite:///{tmp_path}/a.db")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:se@cret@host/db", "postgresql://***@host/db"),
        ("'postgresql+psycopg://me:a/b?c@h/db' is", "'postgresql+psycopg://***@h/db' is"),
        ("mysql://h/db?user=me&password=a:b&x=1", "mysql://h/db?user=me&password=***&x=1"),
        ("pg://h/db?sslpassword=a&Token=b&x=1", "pg://h/db?sslpassword=***&Token=***&x=1"),
        ("h?passwd=a&client_secret=b 'pwd=c'", "h?passwd=***&client_secret=*** 'pwd=***'"),
        (
            "mssql:///?odbc_connect=UID%3Dme%3BPWD%3Da%25b%3BX",
            "mssql:///?odbc_connect=UID%3Dme%3BPWD%3D***%3BX",
        ),
        ("http://h/?api_key=abc&x=1", "http://h/?api_key=***&x=1"),
        ("s3://b?AccessKeyId=a&secret_key=b", "s3://b?AccessKeyId=***&secret_key=***"),
        ("azure://c?sig=a%2Fb&sv=1", "azure://c?sig=***&sv=1"),
        ("host=h password='a b' user=me", "host=h password=*** user=me"),
        ("https://me:pa/ss@h/x", "https://***@h/x"),
        ("http://h:5000/a@b is", "http://h:5000/a@b is"),
        ("https://me%40x:p%2Fw@h/x", "https://***@h/x"),
        ("https://token@h/x?access_token=a#b", "https://***@h/x?access_token=***"),
        (
            "http://h/x?apikey=a&private-key=b&api_key=c",
            "http://h/x?apikey=***&private-key=***&api_key=***",
        ),
        ("see http://u:p@h:1/x and sqlite:////a@b/c", "see http://***@h:1/x and sqlite:////a@b/c"),
    ],
)
def test_passwords_are_hidden(text, shown):
    assert redact(text) == shown
