"""Folders at a URI that several machines read and write: the only door to `pyarrow`.

Nothing is ever written twice. Each version of a folder lies under a name of its own, and counts
from the moment that its list of files is there: ``NAME/TOKEN/FILE`` and ``NAME/TOKEN.whole``. So
two machines that write one folder at once cannot mix, on any store and without locks; who reads
takes the version that was whole first.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cmkd.errors import InfrastructureError, InputError
from cmkd.io import writing

T = TypeVar("T")

WHOLE = ".whole"
CHUNK = 2**20
STREAMS = 8
PATIENCE_SECONDS = 60.0
"""How long a store that refuses is tried again; a node waits meanwhile, and loses nothing."""


@dataclass(frozen=True)
class _File:
    size: int
    sha256: str


class Mirror:
    """Folders at `uri`, by names such as ``trials/ID/epoch-00007``.

    Every method retries a store that refuses for `patience` seconds and then raises
    InfrastructureError.

    Args:
        uri: ``file:///folder``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``, with the
            options of pyarrow's file systems as a query.

    Raises:
        InputError: the URI is of no such kind, or has a password in it.
    """

    def __init__(self, uri: str, patience: float = PATIENCE_SECONDS) -> None:
        from pyarrow.fs import FileSystem

        parts = urlsplit(uri)
        # A secret key may hold a slash, which ends what `urlsplit` takes for the address.
        login, _, place = uri.partition("?")[0].partition("://")[2].rpartition("@")
        if parts.scheme != "file" and ("@" in parts.netloc or ":" in login):
            raise InputError(
                f"storage at {place}: has credentials in its URI, which "
                "end up in logs; give them to every node by its environment instead"
            )
        if parts.scheme not in ("file", "s3", "gs"):
            raise InputError(
                f"storage {uri!r} is not supported; give file:///FOLDER, s3://BUCKET/PREFIX or "
                "gs://BUCKET/PREFIX"
            )
        self.uri = uri
        self._patience = patience
        self._files, self._root = self._call(FileSystem.from_uri, uri)
        self._root = self._root.rstrip("/")

    def put(self, name: str, folder: Path, files: Iterable[str]) -> str:
        """Copy `files` of `folder` to a new version of the folder `name`; returns the version.

        Args:
            files: paths below `folder`, with ``/`` between their parts.

        Raises:
            FileNotFoundError: one of them is not there.
        """
        version = f"{name}/{secrets.token_hex(6)}"
        names = sorted(files)
        sent = _at_once(lambda one: self._send(folder / one, f"{version}/{one}"), names)
        contents = {one: vars(file) for one, file in zip(names, sent, strict=True)}
        text = json.dumps(contents, indent=1).encode()
        self._call(self._write, f"{version}{WHOLE}", [text])
        return version

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of the folder `name` that are whole, the first one first."""
        found = [one for one in self._list(name) if one.path.endswith(WHOLE)]
        ordered = sorted(found, key=lambda one: (one.mtime_ns or 0, one.base_name))
        return tuple(f"{name}/{one.base_name.removesuffix(WHOLE)}" for one in ordered)

    def names(self, under: str) -> tuple[str, ...]:
        """Last parts of the names of folders that lie below `under`, whole or not; sorted."""
        return tuple(sorted(one.base_name for one in self._list(under) if not one.is_file))

    def fetch(self, name: str, folder: Path, *, last: str = "") -> bool:
        """Copy the first version of the folder `name` that is whole into `folder`.

        Each file replaces what was under its name once all are here, the file `last` at the end;
        what else `folder` holds stays.

        Returns:
            Whether there was one.
        """
        return any(self._fetch_version(one, folder, last) for one in self.versions(name))

    def fetch_files(self, version: str, folder: Path, files: Iterable[str]) -> None:
        """Copy some files of one version into `folder`.

        Raises:
            InfrastructureError: also where they are not there, or damaged.
        """
        if not self._fetch_version(version, folder, "", set(files)):
            raise InfrastructureError(
                f"storage {self.uri}: {version} is not there any more, or damaged; run it again"
            )

    def first(self, name: str) -> str | None:
        """The first version of the folder `name` that is whole; None where there is none."""
        return next((one for one in self.versions(name) if self._contents(one) is not None), None)

    def has(self, version: str, path: Path) -> bool:
        """Whether a version has a file of the name and content of `path`."""
        return (self._contents(version) or {}).get(path.name) == _described(path)

    def drop(self, name: str) -> None:
        """Remove all versions of a folder; one that is not there is no error."""
        for version in self.versions(name):
            self._call(_if_there(self._files.delete_file), self._at(f"{version}{WHOLE}"))
        self._call(_if_there(self._files.delete_dir), self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _list(self, name: str) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._at(name), allow_not_found=True)
        found: list[Any] = self._call(self._files.get_file_info, selector)
        return found

    def _send(self, path: Path, name: str) -> _File:
        def send() -> _File:
            digest, size = hashlib.sha256(), 0
            with path.open("rb") as source:

                def parts() -> Iterable[bytes]:
                    nonlocal size
                    while part := source.read(CHUNK):
                        digest.update(part)
                        size += len(part)
                        yield part

                self._write(name, parts())
            return _File(size, digest.hexdigest())

        return self._call(send)

    def _write(self, name: str, parts: Iterable[bytes]) -> None:
        if self._files.type_name == "local":
            self._files.create_dir(self._at(str(PurePosixPath(name).parent)), recursive=True)
        with self._files.open_output_stream(self._at(name)) as target:
            for part in parts:
                target.write(part)

    def _contents(self, version: str) -> dict[str, _File] | None:
        """Files of a version; None where its list is gone or was cut short."""

        def read() -> dict[str, _File] | None:
            try:
                with self._files.open_input_stream(self._at(f"{version}{WHOLE}")) as source:
                    listed: Mapping[str, Mapping[str, Any]] = json.loads(source.read())
            except (FileNotFoundError, json.JSONDecodeError):
                return None
            contents = {name: _File(**file) for name, file in listed.items()}
            # Who may write to the store may not therefore write anywhere on this machine.
            safe = all(_stays_below(PurePosixPath(name)) for name in contents)
            return contents if safe else None

        return self._call(read)

    def _fetch_version(
        self, version: str, folder: Path, last: str, wanted: set[str] | None = None
    ) -> bool:
        contents = self._contents(version)
        if contents is None:
            return False
        names = sorted(wanted or contents, key=lambda one: (one == last, one))
        if not contents.keys() >= set(names):
            return False
        with writing(folder):
            draft = folder / f".{secrets.token_hex(4)}.partial"
            draft.mkdir(parents=True)
        try:
            here = _at_once(lambda one: self._receive(version, one, draft, contents[one]), names)
            if not all(here):
                return False
            with writing(folder):
                for name in names:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (draft / name).replace(folder / name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True

    def _receive(self, version: str, name: str, draft: Path, expected: _File) -> bool:
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)

        def receive() -> bool:
            try:
                source = self._files.open_input_stream(self._at(f"{version}/{name}"))
            except FileNotFoundError:
                return False
            with source, target.open("wb") as stream:
                while part := source.read(CHUNK):
                    stream.write(part)
            return _described(target) == expected

        return self._call(receive)

    def _call(self, action: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        deadline, pause = time.monotonic() + self._patience, 0.5
        while True:
            try:
                return action(*args, **kwargs)
            except FileNotFoundError:
                raise
            except ValueError as error:
                raise InputError(f"storage {self.uri}: {_first_line(error)}") from error
            except OSError as error:
                if time.monotonic() + pause > deadline:
                    raise InfrastructureError(
                        f"storage {self.uri}: {_first_line(error)}; check that this machine may "
                        "read and write there"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 8.0)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _at_once(action: Callable[[str], T], names: Sequence[str]) -> list[T]:
    with ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(action, names))


def _described(path: Path) -> _File:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return _File(path.stat().st_size, digest)


def _stays_below(name: PurePosixPath) -> bool:
    return not name.is_absolute() and ".." not in name.parts


def _if_there(action: Callable[[str], object]) -> Callable[[str], None]:
    def act(path: str) -> None:
        try:
            action(path)
        except FileNotFoundError:
            return

    return act
