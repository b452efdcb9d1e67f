"""The command on a real SQLite store, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmkd.cli.report import app
from cmkd.config.paths import packaged
from cmkd.config.sweep import load_sweep
from cmkd.errors import InputError
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.records import RunIdentity

# MLflow's own query uses an option that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def fill(place: str, folder: Path, *, seeds: int) -> None:
    """Runs of every arm of the shipped sweep and of the teacher, as made from `folder`."""
    store = open_store(place)
    common = {"data": "synthetic", "data_id": "d1", "data_kind": "embedded", "fold": "0"}
    for number, arm in enumerate(load_sweep("ablation").arms):
        for seed in range(seeds):
            right = 3 + number + seed
            tags = common | {
                "kind": "trial",
                "arm": arm.name,
                "setting_id": arm.setting.id,
                "seed": str(seed),
                "teacher": "t1",
                "selection": "best validation",
                "git_commit": "c0ffee",
            }
            name = f"{arm.name}-{seed}"
            run_id = store.open(RunIdentity(name, "ablation", name, tags, {}), {})
            rows = [f"clip{i},,1,{int(i < right)},{int(i < right)}" for i in range(10)]
            path = folder / "predictions.csv"
            path.write_text("\n".join(["clip,group,label,selected,last", *rows]))
            accuracies = {"test_acc": 10.0 * right, "test_acc_last": 10.0 * right}
            store.close(run_id, "FINISHED", summary=accuracies, files=[path])
    tags = common | {"kind": "teacher", "teacher": "t1"}
    run_id = store.open(RunIdentity("t1", "ablation", "teacher", tags, {}), {})
    store.close(run_id, "FINISHED", summary={"test_acc": 90.0, "test_acc_last": 91.0})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with two seeds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fill(f"sqlite:///{folder}/mlflow.db", folder, seeds=2)
    return f"sqlite:///{folder}/mlflow.db"


def run(*arguments: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["tables", *arguments])
    return result.exit_code, result.output, result.exception


def test_tables_are_written_and_shown(uri: str, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    code, output, error = run("--tracking-uri", uri, "--out", str(out))
    assert (code, error) == (0, None)
    names = ["table_4_synthetic.md", "table_4_synthetic.png", "table_4_synthetic.svg"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert output.splitlines()[-3:] == [str(out / name) for name in names]
    assert "NOT results on UCF-101" in output
    page = (out / names[0]).read_text()
    # Right answers: baseline 3 and 4, control 4 and 5, spatial 5 and 6 of 10 clips.
    row = next(line for line in page.splitlines() if "| spatial |" in line)
    assert "| 55.0 ± 7.1 (2 seeds) ⚠ | 55.0 ± 7.1 (2 seeds) ⚠ |" in row
    assert "| +20.0 \\[+20.0, +20.0\\] (2 pairs) ⚠ | +10.0 \\[+10.0, +10.0\\]" in row
    assert "| 90.0 (one training per fold) | 91.0 (one training per fold) |" in page
    assert (out / names[1]).read_bytes().startswith(b"\x89PNG")


def test_the_same_store_gives_the_same_files(uri: str, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        assert run("--tracking-uri", uri, "--out", str(tmp_path / name))[0] == 0
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


def test_no_runs_on_that_data(uri: str, tmp_path: Path) -> None:
    _, _, error = run("--tracking-uri", uri, "--data", "egogestar", "--out", str(tmp_path / "x"))
    assert isinstance(error, InputError)
    assert "it has finished trials on: synthetic" in str(error)
    assert f"run: cmkd sweep ablation --data egogestar --tracking-uri {uri}" in str(error)
    assert not (tmp_path / "x").exists()


def own_spec(folder: Path, name: str) -> Path:
    """The shipped sweep under another name, in a file whose name needs quoting."""
    path = folder / "my sweep.yaml"
    text = packaged("sweeps", "ablation.yaml").read_text()
    path.write_text(text.replace("name: ablation", f"name: {name}", 1))
    return path


def test_the_hint_repeats_the_spec_as_it_was_given(uri: str, tmp_path: Path) -> None:
    path = own_spec(tmp_path, "mine")
    _, _, error = run("--tracking-uri", uri, "--sweep", str(path), "--data", "other")
    assert f"run: cmkd sweep '{path}' --data other" in str(error)


def test_two_sweeps_on_one_data_set_have_files_of_their_own(uri: str, tmp_path: Path) -> None:
    path, out = own_spec(tmp_path, "mine"), tmp_path / "out"
    for spec in ("ablation", str(path)):
        assert run("--tracking-uri", uri, "--sweep", spec, "--out", str(out))[0] == 0
    names = [f"{stem}.md" for stem in ("table_4_mine_synthetic", "table_4_synthetic")]
    assert sorted(one.name for one in out.glob("*.md")) == names


def test_a_lost_artifact_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"sqlite:///{tmp_path}/mlflow.db"
    fill(place, tmp_path, seeds=1)
    arguments = ("--tracking-uri", place, "--out", str(tmp_path / "out"))
    assert run(*arguments)[0] == 0
    (tmp_path / "mlartifacts").rename(tmp_path / "moved")
    _, _, error = run(*arguments)
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    baseline = load_sweep("ablation").arms[0].setting.id
    runs = open_store(place).find({"setting_id": baseline})
    assert f"run {runs[0].run_id} has no readable predictions.csv" in str(error)
    assert f"mlflow runs describe --run-id {runs[0].run_id}" in str(error)
    assert f"sweep again: cmkd sweep ablation --data synthetic --tracking-uri {place}" in str(error)


def test_no_store_at_all_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, _, error = run()
    assert isinstance(error, InputError)
    assert "run: cmkd sweep ablation --data synthetic" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from cmkd.cli.report import app\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'matplotlib', 'av', 'scipy', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
