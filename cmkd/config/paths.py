"""Locations: the cache of derived data, data files of the package, objects of other packages."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import platformdirs

from cmkd.config.yaml_loader import suggest
from cmkd.errors import ConfigError, InputError
from cmkd.io import make_folder

GROUPS = {"backbone": "cmkd.backbones", "loss": "cmkd.losses", "pruner": "cmkd.pruners"}
"""Entry-point groups in which other packages register objects."""


def cache_root() -> Path:
    """Cache folder: ``$CMKD_CACHE``, else ``$XDG_CACHE_HOME/cmkd``, else the platform's."""
    chosen = os.environ.get("CMKD_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("cmkd")


def usable_cache() -> Path:
    """`cache_root`, created if missing.

    Raises:
        InputError: it is no folder, or cannot be written.
        InfrastructureError: the disk is full or fails.
    """
    root = cache_root()
    try:
        make_folder(root)
    except InputError as error:
        raise InputError(
            f"cache {error.problem}", "set CMKD_CACHE to a folder of your own"
        ) from None
    return root


def packaged(*parts: str) -> Path:
    """Data file of the project (``sweeps/ablation.yaml``), from a wheel or from a checkout."""
    package = Path(str(resources.files("cmkd")))
    inside_wheel = package.joinpath("_files", *parts)
    return inside_wheel if inside_wheel.exists() else package.parent.joinpath(*parts)


def known_specs() -> dict[str, Path]:
    """Specs by name: of ``./sweeps``, and of the package where none there has the name."""
    folders = (packaged("sweeps"), Path("sweeps"))
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}


def find_spec(name: str) -> Path:
    """Path of a spec: the file itself, or that of a name of `known_specs`."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = known_specs()
    if name not in known:
        raise ConfigError(f"unknown sweep {name!r}{suggest(name, known)}")
    return known[name]


def slug(text: str) -> str:
    """Name that is safe as one path component: ASCII letters, digits, ``_ . -``, at most 64."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:64]
    if not safe:
        raise InputError(f"name {text!r} has no letter or digit; give it one")
    return safe


def load_plugin(kind: str, name: str, known: Iterable[str] = ()) -> Any:
    """Object of another package: ``module:object``, or an entry point of the group of `kind`.

    A module is looked for where Python looks, then in the current folder. Importing runs its code.

    Raises:
        ValueError: no such entry point (`known` and registered names are suggested), or the import
            failed.
    """
    if ":" in name:
        point = EntryPoint(name, name, GROUPS[kind])
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    else:
        points = {found.name: found for found in entry_points(group=GROUPS[kind])}
        if name not in points:
            hint = suggest(name, {*known, *points}) if known or points else ""
            raise ValueError(f"unknown {kind} {name!r}{hint}; or write module:object")
        point = points[name]
    try:
        return point.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{point.value} cannot be imported: {error}; install it, or start in its folder"
        ) from None
