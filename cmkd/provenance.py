"""Provenance of a result: code, versions and processor, written beside it while it is made."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from cmkd import __version__
from cmkd.errors import InfrastructureError
from cmkd.io import read_record, write_record

FILE = "made_by.json"
"""In the folder of a trial or teacher: all that trained it, the first one first."""
PACKAGES = ("torch", "numpy", "av")
NEUTRAL = frozenset(
    "__init__.py __main__.py api.py cli export.py mlflow_model.py predict.py report results.py "
    "sweep tracking".split()
)
"""Parts of the package that change no result; an edit of them leaves `Provenance.code` as it is."""
FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve")
"""Processor features by which kernels, and with them the rounding, are chosen."""


@dataclass(frozen=True)
class Provenance:
    """Code and machine that made a result.

    Attributes:
        code: digest of the sources that decide a result.
        commit: of the checkout, with ``-dirty`` when a tracked file was edited or the package has
            one that is not tracked; else the version of cmkd.
        versions: of the packages that compute.
        processor: architecture and features.
    """

    code: str
    commit: str
    versions: Mapping[str, str]
    processor: str

    def tags(self) -> dict[str, str]:
        """Tags of a run that this code made."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return {
            "code": self.code,
            "git_commit": self.commit,
            "made_with": versions,
            "processor": self.processor,
        }


@lru_cache(maxsize=1)
def this_code() -> Provenance:
    """Provenance of what this process makes."""
    package = Path(__file__).resolve().parent
    versions = {"cmkd": __version__, **{name: metadata.version(name) for name in PACKAGES}}
    return Provenance(code_digest(package), _commit(package), versions, _processor())


def code_digest(package: Path, skipped: Collection[str] = NEUTRAL) -> str:
    """Digest of the sources below `package` but for the `skipped` parts."""
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.c")]):
        name = path.relative_to(package)
        if name.parts[0] not in skipped:
            digest.update(name.as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def sign(folder: Path) -> None:
    """Add this process to the makers of what is trained in `folder`, unless it is the last one.

    Raises:
        InfrastructureError: the list of makers is damaged, or the disk is full.
    """
    known = makers(folder)
    if known[-1:] != (this_code(),):
        entries = [asdict(maker) for maker in (*known, this_code())]
        write_record(folder / FILE, folder.name, entries)


def makers(folder: Path) -> tuple[Provenance, ...]:
    """All that trained in `folder`, in order; empty where nothing was trained.

    Raises:
        InfrastructureError: the list is damaged or another folder's, and has been removed, after
            which the results beside it are of unknown code.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        with suppress(ValueError, TypeError):  # Without a digest, as earlier versions wrote it.
            return tuple(Provenance(**entry) for entry in json.loads(path.read_bytes()))
        return tuple(Provenance(**entry) for entry in read_record(path, folder.name))
    except InfrastructureError as error:
        raise InfrastructureError(
            error.problem,
            "the same command trains anew what it belongs to, as nothing says any more which code "
            "made it",
        ) from error


def _commit(package: Path) -> str:
    if (package.parent / ".git").exists():
        try:
            commit = _git(package, "rev-parse", "HEAD")
            edited = _git(package, "status", "--porcelain", "--untracked-files=no")
            # A sweep file or a result of the user's own is no part of the code.
            added = _git(package, "ls-files", "--others", "--exclude-standard")
            return commit + ("-dirty" if edited or added else "")
        except (OSError, subprocess.CalledProcessError):
            pass
    return __version__


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, flags=re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return " ".join([platform.machine(), *(name for name in FEATURES if name in flags)])
