"""What a sweep lets others see: no secret, and no port beyond this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cmkd
from benchmarks.servers import mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Make = Callable[..., Any]
CANARY = "canary-77d0"
ROOT = Path(cmkd.__file__).resolve().parents[1]


def checkout_with_a_secret(folder: Path) -> Path:
    """This code in a git repository whose remote has a password."""
    for part in ("cmkd", "sweeps", "reports"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    remote = f"https://me:{CANARY}@example.org/cmkd.git"
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for arguments in (
        ("init", "-q"),
        ("remote", "add", "origin", remote),
        ("add", "."),
        (*identity, "commit", "-qm", "all"),
    ):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    return folder


def hits(*folders: Path) -> list[Path]:
    """Files that hold the canary."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [path for path in files if CANARY.encode() in path.read_bytes()]


def listening(pid: int) -> Iterator[str]:
    """Addresses that a process accepts connections at, from the kernel's tables."""
    families = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        tables = {name: Path(f"/proc/{pid}/net/{name}").read_text() for name in families}
    except OSError:  # It has ended meanwhile.
        return
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    for name, family in families.items():
        for line in tables[name].splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in own:
                words = bytes.fromhex(fields[1].partition(":")[0])
                raw = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                yield socket.inet_ntop(family, raw)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_row_34_and_36_no_secret_is_told_and_nothing_listens_beyond_this_machine(
    new_workspace: Make, tmp_path: Path
) -> None:
    checkout = checkout_with_a_secret(tmp_path / "checkout")
    # Its path is the beginning of those of sockets, which are short.
    ray = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    store = tmp_path / "store"
    store.mkdir()
    try:
        with mlflow_server(store, f"sqlite:///{store}/mlflow.db") as server:
            secret_url = server.url.replace("://", f"://me:{CANARY}@")
            space = replace(
                new_workspace(4),
                environment={
                    "PYTHONPATH": str(checkout),
                    "MLFLOW_TRACKING_URI": secret_url,
                    "AWS_SECRET_ACCESS_KEY": CANARY,
                    "MLFLOW_TRACKING_TOKEN": CANARY,
                    "RAY_TMPDIR": str(ray),
                },
            )
            process = space.start("sweep", "tiny.yaml")
            commands, addresses = set[str](), set[str]()
            while process.poll() is None:
                for pid, command in space.processes():
                    commands.add(command)
                    addresses |= set(listening(pid))
            output, _ = process.communicate()
            assert process.returncode == 0, output
            code, told = space.run("report", "tables", "--sweep", "tiny.yaml", "--out", "report")
            assert code == 0, told
        assert any("Trainable" in command for command in commands)
        assert [command for command in commands if CANARY in command] == []
        assert CANARY not in output + told
        assert list(ray.rglob("*.log")), "Ray's logs are there"
        assert list(store.rglob("predictions.csv")), "the store is there"
        assert hits(space.folder, store, ray) == []
        assert len(addresses) >= 1
        assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    finally:
        shutil.rmtree(ray)
