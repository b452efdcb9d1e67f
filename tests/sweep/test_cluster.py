"""What is refused before a cluster is used; sweeps on real ones are in tests/faults."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.trial import Setting, TrialConfig
from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.sweep import cluster
from cmkd.sweep.cluster import HealthCheck, Node, joined, require_alike

NODES = [Node("a", "10.0.0.1", 2.0, 0.0), Node("b", "10.0.0.2", 2.0, 0.0)]


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


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs `require_alike` where every question is asked in this process, once per node."""

    def run(cache: Path, change: Callable[[Node, Any], Any] = lambda _, answer: answer) -> None:
        def ask_all(question: Any, arguments: Any, *_: object) -> list[tuple[Node, Any]]:
            return [(node, change(node, question(**arguments))) for node in NODES]

        monkeypatch.setattr(cluster, "_ask_all", ask_all)
        config = TrialConfig(setting=Setting(), data="mine", data_id="0" * 12, fold=0, seed=0)
        require_alike(cache, config, HealthCheck({}), lambda: None)

    return run


def test_a_node_with_other_code_is_named_with_what_differs_and_the_remedy(
    ask: Callable[..., None], tmp_path: Path
) -> None:
    def other(node: Node, answer: Any) -> Any:
        return {**answer, "torch": "2.0.0"} if node.id == "b" else answer

    with pytest.raises(InputError) as refusal:
        ask(tmp_path, other)
    text = str(refusal.value)
    assert text.startswith("node 10.0.0.2: torch is 2.0.0 there and ")
    assert text.endswith("install the same on all machines and start the node again")
    assert "10.0.0.1" not in text


def test_code_that_was_edited_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cmkd").mkdir()
    module = tmp_path / "cmkd" / "__init__.py"
    digests = set()
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: type("Spec", (), {"submodule_search_locations": [str(module.parent)]}),
    )
    for text in ("one = 1\n", "one = 2\n"):
        module.write_text(text)
        digests.add(cluster._versions()()["code of cmkd"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    digests.add(cluster._versions()()["code of cmkd"])
    assert len(digests) == 3
    assert "missing" in digests


def test_a_data_set_that_a_node_lacks_is_refused_for_every_node(
    ask: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"node 10\.0\.0\.1: .*'mine'.*; node 10\.0\.0\.2:"):
        ask(tmp_path / "cache")
    assert not list((tmp_path / "cache/locks").iterdir()), "nothing of the question is left"


def test_a_node_that_does_not_share_the_cache_is_refused(tmp_path: Path) -> None:
    config = TrialConfig(setting=Setting(), data="mine", data_id="0" * 12, fold=0, seed=0)
    problem = cluster._problem(tmp_path, config, tmp_path / "locks/mark.lock")
    assert str(tmp_path) in problem and "mount" in problem
    # A mark that nobody holds: its lock does not reach this node.
    (tmp_path / "mark.lock").touch()
    assert "locks" in cluster._problem(tmp_path, config, tmp_path / "mark.lock")
