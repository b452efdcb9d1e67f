"""What is refused before a cluster is used; sweeps on real ones are in tests/faults."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.trial import Setting, TrialConfig
from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.provenance import code_digest
from cmkd.sweep import cluster
from cmkd.sweep.cluster import joined, problem_of_node, require_alike, versions

PACKAGE = Path(cluster.__file__).parents[1]
NODES = ["10.0.0.1", "10.0.0.2"]


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("nonsense", InputError, "--address nonsense: give HOST:PORT of the cluster's head"),
        ("host:http", InputError, "give HOST:PORT"),
        # The port is chosen in the test, so that each process of a run collects equal names.
        ("127.0.0.1:PORT", InfrastructureError, "no answer .*ray start --head"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, kind: type[CmkdError], message: str
) -> None:
    address = address.replace("PORT", str(refused_port()))
    with pytest.raises(kind, match=message), joined(address):
        pass


CONFIG = TrialConfig(setting=Setting(), data="mine", data_id="0" * 12, fold=0, seed=0)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs `require_alike` where every question is asked in this process, once per node."""

    def run(cache: Path, change: Callable[[str, str], str] = lambda _, answer: answer) -> None:
        def ask_all(question: Any, arguments: Any, *_: object) -> list[tuple[str, str]]:
            return [(node, change(node, question(**arguments))) for node in NODES]

        monkeypatch.setattr(cluster, "_ask_all", ask_all)
        require_alike(cache, CONFIG, lambda: None)

    return run


def test_a_node_with_another_version_says_the_difference_and_the_remedy(tmp_path: Path) -> None:
    ours = {**versions(), "torch": "2.0.0"}
    problem = problem_of_node(ours, tmp_path, CONFIG, tmp_path / "mark.lock")
    assert problem.startswith("torch is ")
    assert problem.endswith(
        "there and 2.0.0 here; install the same on all machines and start the node again"
    )


def test_every_node_that_does_not_fit_is_named(ask: Callable[..., None], tmp_path: Path) -> None:
    def other(node: str, answer: str) -> str:
        return "torch is missing" if node == "10.0.0.2" else ""

    with pytest.raises(InputError) as refusal:
        ask(tmp_path, other)
    assert str(refusal.value) == "node 10.0.0.2: torch is missing"


def test_any_edit_of_the_code_is_other_code(tmp_path: Path) -> None:
    assert versions()["code of cmkd"] == code_digest(PACKAGE, skipped=()) != code_digest(PACKAGE)


def test_a_data_set_that_a_node_lacks_is_refused_for_every_node(
    ask: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"node 10\.0\.0\.1: .*'mine'.*; node 10\.0\.0\.2:"):
        ask(tmp_path / "cache")
    assert not list((tmp_path / "cache/locks").iterdir()), "nothing of the question is left"


def test_a_node_that_does_not_share_the_cache_is_refused(tmp_path: Path) -> None:
    problem = problem_of_node(versions(), tmp_path, CONFIG, tmp_path / "locks/mark.lock")
    assert str(tmp_path) in problem and "mount" in problem
    # A mark that nobody holds: its lock does not reach this node.
    (tmp_path / "mark.lock").touch()
    assert "locks" in problem_of_node(versions(), tmp_path, CONFIG, tmp_path / "mark.lock")
