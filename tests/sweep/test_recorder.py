"""The writer thread: order, retries, and what it says when the store is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from cmkd.errors import InfrastructureError, InputError
from cmkd.sweep import recorder as module
from cmkd.sweep.recorder import Recorder
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity, RunRecord

IDENTITY = RunIdentity("t", "e", "n", {}, {})
EPOCH = EpochRecord(1, 1, {"val_acc": 1.0})


class FlakyStore:
    """Keeps what it is told, in order, unless it is down."""

    def __init__(self) -> None:
        self.down = False
        self.refused = threading.Event()
        self.calls: list[tuple[object, ...]] = []

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        return ()

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> str:
        self._keep("open", identity.trial_id)
        return f"run of {identity.trial_id}"

    def log(self, run_id: str, epochs: Iterable[EpochRecord]) -> None:
        self._keep("log", run_id, *[epoch.step for epoch in epochs])

    def close(self, run_id: str, ending: RunEnding) -> None:
        self._keep("close", run_id, ending.status, ending.summary or None, ending.timestamp_ms)

    def read_text(self, run_id: str, name: str) -> str:
        raise NotImplementedError

    def _keep(self, *call: object) -> None:
        if self.down:
            self.refused.set()
            raise InfrastructureError("store: refused")
        if "run of bad" in call:
            raise InputError("store: not this")
        self.calls.append(call)


@pytest.fixture
def store():
    return FlakyStore()


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.5)
    monkeypatch.setattr(module, "LAST_PAUSE", 0.05)
    return []


def test_records_arrive_in_order_and_once(store, said):
    recorder = Recorder(store, said.append)
    recorder.open(IDENTITY, {})
    recorder.open(IDENTITY, {})
    recorder.log("t", [EPOCH])
    recorder.log("t", [])
    recorder.close("t", RunEnding("FINISHED", summary={"test_acc": 1.0}, timestamp_ms=7))
    recorder.drain()
    assert store.calls == [
        ("open", "t"),
        ("log", "run of t", 1),
        ("close", "run of t", "FINISHED", {"test_acc": 1.0}, 7),
    ]
    assert said == []


def test_what_a_store_refuses_follows_when_it_is_back(store, said):
    recorder = Recorder(store, said.append)
    store.down = True
    recorder.open(IDENTITY, {})
    recorder.log("t", [EPOCH])
    assert store.refused.wait(5)
    recorder.close("t", RunEnding("FINISHED"))
    store.down = False
    recorder.drain()
    assert [call[0] for call in store.calls] == ["open", "log", "close"]
    assert len(said) == 1, "warned once"
    assert "refused" in said[0]


def test_a_store_that_stays_away_is_reported_at_the_end(store, said):
    recorder = Recorder(store, said.append)
    store.down = True
    recorder.open(IDENTITY, {})
    recorder.log("t", [EPOCH])
    recorder.close("t", RunEnding("FINISHED"))
    with pytest.raises(InfrastructureError, match=r"refused \(3 records not written\)"):
        recorder.drain()
    assert len(said) <= 1


def test_a_store_that_comes_back_while_it_is_waited_for_gets_everything(store, said):
    recorder = Recorder(store, said.append)
    store.down = True
    recorder.open(IDENTITY, {})
    recorder.close("t", RunEnding("FINISHED"))
    back = threading.Timer(0.3, lambda: setattr(store, "down", False))
    back.start()
    recorder.drain()
    back.join()
    assert [call[0] for call in store.calls] == ["open", "close"]


def test_epochs_that_wait_go_in_one_request_and_none_is_lost(store, said):
    recorder = Recorder(store, said.append)
    store.down = True
    recorder.open(IDENTITY, {})
    assert store.refused.wait(5)
    for step in (1, 2, 3):
        recorder.log("t", [EpochRecord(step, step, {})])
    recorder.close("t", RunEnding("FAILED"))
    # Taken up again: not to be put before the end of the first attempt.
    recorder.open(IDENTITY, {})
    recorder.log("t", [EpochRecord(4, 4, {})])
    recorder.close("t", RunEnding("FINISHED"))
    store.down = False
    recorder.drain()
    assert [call[0::2] for call in store.calls] == [
        ("open",),
        ("log", 1, 3),
        ("close", "FAILED", None),
        ("open",),
        ("log", 4),
        ("close", "FINISHED", None),
    ]
    assert store.calls[1] == ("log", "run of t", 1, 2, 3)


def test_trials_do_not_wait_for_one_another_and_each_stays_in_order(store, said, monkeypatch):
    entered, released = threading.Event(), threading.Event()
    keep = store._keep

    def slow(*call: object) -> None:
        if call == ("open", "t"):
            entered.set()
            assert released.wait(5)
        keep(*call)
        if call == ("close", "run of other", "FINISHED", None, None):
            released.set()

    monkeypatch.setattr(store, "_keep", slow)
    recorder = Recorder(store, said.append, writers=3)
    recorder.open(IDENTITY, {})
    assert entered.wait(5)
    recorder.log("t", [EPOCH])
    recorder.close("t", RunEnding("FINISHED"))
    recorder.open(RunIdentity("other", "e", "o", {}, {}), {})
    recorder.log("other", [EPOCH])
    recorder.close("other", RunEnding("FINISHED"))
    recorder.drain()
    names = [(call[0], str(call[1]).removeprefix("run of ")) for call in store.calls]
    assert names == [(kind, trial) for trial in ("other", "t") for kind in ("open", "log", "close")]


def test_an_unfinished_run_is_closed_as_killed(store, said):
    recorder = Recorder(store, said.append)
    recorder.open(IDENTITY, {})
    recorder.drain(timeout=5)
    assert store.calls[-1] == ("close", "run of t", "KILLED", None, None)


def test_a_refused_record_costs_its_own_run_and_no_other(store, said):
    recorder = Recorder(store, said.append)
    recorder.open(RunIdentity("bad", "e", "bad name", {}, {}), {})
    recorder.open(IDENTITY, {})
    recorder.log("bad", [EPOCH])
    recorder.log("t", [EPOCH])
    recorder.close("bad", RunEnding("FINISHED"))
    recorder.close("t", RunEnding("FINISHED"))
    with pytest.raises(InfrastructureError, match="refused records of bad name$"):
        recorder.drain(timeout=5)
    assert [call[:2] for call in store.calls] == [
        ("open", "bad"),
        ("open", "t"),
        ("log", "run of t"),
        ("close", "run of t"),
    ]
    assert said == ["store: not this; nothing more of 'bad name' is recorded"]


def test_a_bug_in_the_store_is_not_dressed_up(store, said, monkeypatch):
    def broken(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "open", broken)
    recorder = Recorder(store, said.append)
    recorder.open(IDENTITY, {})
    with pytest.raises(ZeroDivisionError):
        recorder.drain()


class FilesStore(FlakyStore):
    """Keeps the files' contents."""

    def close(self, run_id: str, ending: RunEnding) -> None:
        if self.down:
            self.refused.set()
            raise InfrastructureError("store: refused")
        self.files = {path.name: path.read_text() for path in ending.files}


def test_a_finished_run_is_kept_with_its_pictures_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    file = tmp_path / "predictions.csv"
    file.write_text("a")
    drawn: list[Path] = []

    def draw(files: Sequence[Path], folder: Path) -> Sequence[Path]:
        assert threading.current_thread().name == "recorder", "the driver goes on meanwhile"
        drawn.append(folder)
        (picture := folder / "confusion.png").write_text(f"of {files[0].read_text()}")
        return [picture]

    store = FilesStore()
    recorder = Recorder(store, print, draw)
    recorder.open(IDENTITY, {})
    store.down = True
    recorder.close("t", RunEnding("FINISHED", files=[file]), draw_from=[file])
    assert store.refused.wait(5)
    store.down = False
    recorder.drain()
    assert store.files == {"predictions.csv": "a", "confusion.png": "of a"}
    assert len(drawn) == 1
    assert not drawn[0].exists(), "nothing is left behind"


def test_a_picture_that_fails_costs_only_itself(tmp_path):
    file = tmp_path / "predictions.csv"
    file.write_text("a")

    def draw(files: Sequence[Path], folder: Path) -> Sequence[Path]:
        raise ZeroDivisionError("no clips")

    store, said = FilesStore(), list[str]()
    recorder = Recorder(store, said.append, draw)
    recorder.open(IDENTITY, {})
    recorder.close("t", RunEnding("FINISHED", files=[file]), draw_from=[file])
    recorder.drain()
    assert store.files == {"predictions.csv": "a"}
    assert said == ["'n' is kept without pictures: ZeroDivisionError: no clips"]
