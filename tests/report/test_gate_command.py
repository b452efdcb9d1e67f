"""``cmkd report claims``, ``baseline``, ``check`` and ``verify`` on real SQLite stores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cmkd.cli.report import app
from cmkd.config.sweep import load_sweep
from cmkd.errors import CmkdError
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.store import RunEnding, RunIdentity, RunStore

# MLflow's own query uses an option that SQLAlchemy 2.1 deprecates.

SPEC = """
name: small
description: made up
data: made-up
seeds: 3
base: {method.lambda_1: 0.1, method.lambda_2: 1.0}
blocks:
  baseline: {method.decoder: [false], method.lambda_1: [0.0], method.lambda_2: [0.0]}
  control: {method.lambda_1: [0.0], method.lambda_2: [0.0]}
  spatial: {method.lambda_2: [0.0]}
  both: {method.lambda_1: [0.1]}
"""
CLIPS = 200
RIGHT = {"baseline": 100, "control": 104, "spatial": 130, "both": 158}


class Stores:
    """Stores of made-up runs in `folder`, for the spec in `path`; copies of `empty` at first."""

    def __init__(self, folder: Path, empty: Path) -> None:
        self.folder = folder
        self.empty = empty
        self.path = folder / "small.yaml"
        self.path.write_text(SPEC)

    def make(self, name: str, first_seed: int = 0, trained: Mapping[str, str] | None = None) -> str:
        """The address of a store with five seeds; `trained` maps an arm to what it really is."""
        shutil.copy(self.empty, self.folder / f"{name}.db")
        place = f"sqlite:///{self.folder}/{name}.db"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            store = open_store(place)
        common = {
            "data": "made-up",
            "data_id": "d1",
            "data_kind": "embedded",
            "fold": "0",
            "folds": "1",
            "teacher": "t1",
            "selection": "best validation",
            "git_commit": name * 8,
        }
        for arm in load_sweep(str(self.path)).arms:
            for seed in range(first_seed, first_seed + 5):
                real = (trained or {}).get(arm.name, arm.name)
                tags = common | {
                    "kind": "trial",
                    "arm": arm.name,
                    "setting_id": arm.setting.id,
                    "seed": str(seed),
                }
                order = np.random.default_rng([len(real), seed]).permutation(CLIPS)
                self._run(store, f"{arm.name}-{seed}", tags, order < RIGHT[real] + seed % 4)
        self._run(store, "t1", common | {"kind": "teacher"}, np.arange(CLIPS) < 180)
        return place

    def _run(self, store: RunStore, name: str, tags: dict[str, str], right: np.ndarray) -> None:
        run_id = store.open(RunIdentity(name, "small", name, tags, {}), {})
        rows = [f"clip{i:03},,{i % 5},{i % 5 if hit else 9}" for i, hit in enumerate(right)]
        path = self.folder / "predictions.csv"
        lines = (f"{row},{row.rpartition(',')[2]}" for row in rows)
        path.write_text("\n".join(["clip,group,label,selected,last", *lines]))
        accuracy = 100 * float(right.mean())
        summary = {"test_acc": accuracy, "test_acc_last": accuracy, "best_val_acc": accuracy}
        store.close(run_id, RunEnding("FINISHED", summary=summary, files=[path]))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Stores:
    return Stores(tmp_path_factory.mktemp("stores"), empty_database)


@pytest.fixture(scope="module")
def healthy(stores: Stores) -> str:
    return stores.make("a")


def run(*arguments: str) -> tuple[int, str]:
    """Exit code as `cmkd` gives it, and everything that was said."""
    result = CliRunner().invoke(app, arguments)
    error = result.exception
    if isinstance(error, CmkdError):
        return error.exit_code, f"{result.output}{error}"
    assert error is None or isinstance(error, SystemExit), result.output
    return result.exit_code, result.output


def test_claims_are_printed_and_written(stores: Stores, healthy: str, tmp_path: Path) -> None:
    where = ("--sweep", str(stores.path), "--tracking-uri", healthy, "--out", str(tmp_path))
    code, output = run("claims", *where)
    assert code == 0, output
    kinds = ("csv", "html", "json", "md", "tex")
    names = [tmp_path / f"claims_small_made-up.{kind}" for kind in kinds]
    assert sorted(tmp_path.iterdir()) == names
    helps = next(line for line in output.splitlines() if line.startswith("| spatial\\_helps"))
    assert "| supported |" in helps
    code, text = run("claims", *where, "--json")
    assert (code, text) == (0, names[2].read_text())
    found = {(one["claim"], one["family"]): one for one in json.loads(text)["claims"]}
    assert found["both_helps", "TSM"]["verdict"] == "supported"
    assert found["near_teacher", "TSM"]["verdict"] == "contradicted"
    assert found["temporal_helps", "TSM"]["verdict"] == "no runs"
    assert found["cheaper_tsm", "TSM"]["reason"] == "run: cmkd cost"


def test_the_gate_from_end_to_end(stores: Stores, healthy: str, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "baseline.json"
    where = ("--sweep", str(stores.path), "--tracking-uri", healthy)
    assert run("baseline", *where, "--out", str(file))[0] == 0
    written = file.read_bytes()
    assert run("baseline", *where, "--out", str(file))[0] == 0
    assert file.read_bytes() == written
    same = run("check", "--baseline", str(file), "--tracking-uri", healthy)
    assert same[0] == 0, same[1]
    assert same[1].count("ok ") == 2 + 5

    others = stores.make("b", first_seed=5)
    code, output = run("check", "--baseline", str(file), "--tracking-uri", others)
    assert code == 0, output

    whole = json.loads(written)
    whole["arms"]["both"]["replicates"] = 9
    file.write_text(json.dumps(whole))
    code, output = run("check", "--baseline", str(file), "--tracking-uri", others)
    assert code == 0, output
    (line,) = (line for line in output.splitlines() if "n 9 -> 5" in line)
    assert line.startswith("ok          arm both ")
    file.write_bytes(written)

    # lambda_2 is ignored, and the control is not what it was.
    broken = stores.make("c", first_seed=5, trained={"both": "spatial", "control": "baseline"})
    code, output = run("check", "--baseline", str(file), "--tracking-uri", broken)
    assert code == 1
    assert "REGRESSION  arms spatial and both: dead toggle" in output
    assert "REGRESSION  arms baseline and control: dead toggle" in output
    assert "REGRESSION  arm both " in output
    assert "3 regressions on made-up since commit aaaaaaaa (now cccccccc)" in output
    code, output = run(
        "claims", "--sweep", str(stores.path), "--tracking-uri", broken, "--out", str(tmp_path)
    )
    assert code == 1
    assert "both − spatial: the same predictions" in output


def test_an_arm_that_fell_is_named(stores: Stores, healthy: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    where = ("--sweep", str(stores.path), "--tracking-uri", healthy)
    assert run("baseline", *where, "--out", str(file), "--drift", "1")[0] == 0
    whole = json.loads(file.read_text())
    whole["arms"]["spatial"]["mean"] += 20
    file.write_text(json.dumps(whole))
    code, output = run("check", "--baseline", str(file), "--tracking-uri", healthy)
    assert code == 1
    line = next(line for line in output.splitlines() if "arm spatial" in line)
    assert line.split()[:7] == ["REGRESSION", "arm", "spatial", "85.6", "->", "65.6", "-20.0"]


def test_nothing_to_compare_is_bad_input(stores: Stores, healthy: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    code, output = run("check", "--baseline", str(file), "--tracking-uri", healthy)
    assert code == 2
    assert f"write it with: cmkd report baseline --out {file}" in output
    nowhere = f"sqlite:///{tmp_path}/none.db"
    where = ("--sweep", str(stores.path), "--out", str(file), "--tracking-uri")
    assert run("baseline", *where, nowhere)[0] == 2
    assert run("baseline", *where, healthy)[0] == 0
    code, output = run("check", "--baseline", str(file), "--tracking-uri", nowhere)
    assert code == 2
    assert "no tracking store is there yet; run: cmkd sweep" in output
    code, output = run("check", "--baseline", str(file), "--tracking-uri", healthy, "--data", "x")
    assert code == 2
    assert run("claims", "--tracking-uri", nowhere, "--out", str(tmp_path))[0] == 2


def test_a_report_that_was_touched_is_found(
    stores: Stores, healthy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    where = ("--sweep", str(stores.path), "--tracking-uri", healthy)
    assert run("tables", *where, "--no-plots", "--out", str(made))[0] == 0
    assert run("claims", *where, "--out", str(made))[0] == 0
    code, output = run("verify", str(made), *where)
    assert code == 0, output
    assert output.startswith(f"{len(list(made.iterdir()))} files in {made} are what the store")
    monkeypatch.setattr("cmkd.__version__", "9.9.9")
    assert run("verify", str(made), *where)[0] == 0, "a later version gives the same report"

    partial = tmp_path / "partial"
    partial.mkdir()
    shutil.copy(made / "claims_small_made-up.json", partial)
    assert run("verify", str(partial), *where)[0] == 0

    page = next(made.glob("sweep_*.md"))
    page.write_text(page.read_text().replace("65.", "66.", 1))
    code, output = run("verify", str(made), *where)
    assert code == 1
    assert f"{page}: line " in output and "but the store gives" in output
    assert f"1 files in {made} are not what the store gives" in output
    assert run("verify", str(tmp_path / "absent"), *where)[0] == 2


def test_formats_that_were_not_made_are_no_fault_and_a_foreign_file_is_said(
    stores: Stores, healthy: str, tmp_path: Path
) -> None:
    where = ("--sweep", str(stores.path), "--tracking-uri", healthy)
    assert run("tables", *where, "--no-plots", "--out", str(tmp_path))[0] == 0
    assert run("claims", *where, "--out", str(tmp_path))[0] == 0
    page = next(tmp_path.glob("sweep_*.tex"))
    page.unlink()
    # Without any LaTeX it may have been made without; the claims have theirs.
    assert run("verify", str(tmp_path), *where)[0] == 0
    gone = next(tmp_path.glob("claims_*.tex"))
    gone.unlink()
    (tmp_path / "table_9_other.md").write_text("made up")
    code, output = run("verify", str(tmp_path), *where)
    assert code == 0 and f"not verified: {tmp_path}/table_9_other.md" in output


@pytest.mark.slow
def test_a_picture_that_was_touched_is_found(stores: Stores, healthy: str, tmp_path: Path) -> None:
    where = ("--sweep", str(stores.path), "--tracking-uri", healthy)
    assert run("tables", *where, "--out", str(tmp_path))[0] == 0
    assert run("verify", str(tmp_path), *where)[0] == 0
    picture = next(tmp_path.glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-1])
    code, output = run("verify", str(tmp_path), *where)
    assert code == 1
    assert f"{picture}: is another picture than the store gives now" in output
