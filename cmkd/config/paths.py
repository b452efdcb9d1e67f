"""Where files live: the cache of derived data, and the data files shipped with the package."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

import platformdirs

from cmkd.errors import InputError


def cache_root() -> Path:
    """The cache folder: ``$CMKD_CACHE``, else ``$XDG_CACHE_HOME/cmkd``, else the platform's."""
    chosen = os.environ.get("CMKD_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("cmkd")


def usable_cache() -> Path:
    """`cache_root`, made when it is not there.

    Raises:
        InputError: it is no folder, or cannot be written.
    """
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(root, os.W_OK | os.X_OK) else "cannot be written"
    except OSError as error:
        is_file = isinstance(error, FileExistsError)
        reason = "not a folder" if is_file else error.strerror or str(error)
    if reason:
        raise InputError(f"cache {root}: {reason}; set CMKD_CACHE to a folder of your own")
    return root


def packaged(*parts: str) -> Path:
    """A data file of the project (``sweeps/ablation.yaml``), from a wheel or from a checkout."""
    package = Path(str(resources.files("cmkd")))
    inside_wheel = package.joinpath("_files", *parts)
    return inside_wheel if inside_wheel.exists() else package.parent.joinpath(*parts)


def slug(text: str) -> str:
    """A name that is safe as one path component: ASCII letters, digits, ``_ . -``, at most 64."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:64]
    if not safe:
        raise InputError(f"name {text!r} has no letter or digit; give it one")
    return safe
