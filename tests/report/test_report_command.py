"""The command on a real SQLite store, as a user runs it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from cmkd.cli.report import app
from cmkd.config.paths import packaged
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting
from cmkd.errors import InputError, TrialFailed
from cmkd.report.arms import family_of_arm
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.reader import open_reader
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

if TYPE_CHECKING:
    from conftest import Browser

# MLflow's own query uses an option that SQLAlchemy 2.1 deprecates.


def right_answers(setting: Setting, seed: int) -> int:
    """Of ten clips: 3 for the baseline, 1 more for the decoder, 1 and 2 more for either KD."""
    method = setting.method
    kinds = method.decoder + (method.lambda_1 > 0) + 2 * (method.lambda_2 > 0)
    return 3 + kinds + seed


def fill(place: str, folder: Path, *, seeds: int) -> None:
    """Runs of the TSM arms of the shipped sweep and of their teacher, as made from `folder`."""
    store = open_store(place)
    common = {"data": "synthetic", "data_id": "d1", "data_kind": "embedded", "fold": "0"}
    for arm in load_sweep("ablation").arms:
        if family_of_arm(arm.setting) != "TSM":
            continue
        for seed in range(seeds):
            right = right_answers(arm.setting, seed)
            tags = common | {
                "kind": "trial",
                "sweep": "ablation",
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
            epochs = [EpochRecord(i, i, {"val_acc": 9.0 * i, "loss_ce": 1 / i}) for i in (1, 2)]
            store.log(run_id, epochs)
            accuracies = {"test_acc": 10.0 * right, "test_acc_last": 10.0 * right}
            store.close(run_id, RunEnding("FINISHED", summary=accuracies, files=[path]))
    tags = common | {"kind": "teacher", "teacher": "t1"}
    run_id = store.open(RunIdentity("t1", "ablation", "teacher", tags, {}), {})
    store.close(run_id, RunEnding("FINISHED", summary={"test_acc": 90.0, "test_acc_last": 91.0}))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> str:
    """The address of a store with two seeds."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fill(f"sqlite:///{folder}/mlflow.db", folder, seeds=2)
    return f"sqlite:///{folder}/mlflow.db"


def run(*arguments: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["tables", *arguments])
    return result.exit_code, result.output, result.exception


def test_every_data_set_of_the_store_has_its_tables(uri: str, tmp_path: Path) -> None:
    place = tmp_path / "mlflow.db"
    shutil.copy(uri.removeprefix("sqlite:///"), place)
    with sqlite3.connect(place) as store:
        chosen = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'seed' AND value = '1')"
        store.execute(f"UPDATE tags SET value = 'mine' WHERE key = 'data' AND {chosen}")
        mine = "SELECT min(run_uuid) FROM tags WHERE key = 'data' AND value = 'mine'"
        (run_id,) = store.execute(mine).fetchone()
        for key, value in {"data": "other", "sweep": "own", "setting_id": "of none"}.items():
            change = "UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?"
            store.execute(change, (value, key, run_id))
    where = ("--no-plots", "--format", "md", "--tracking-uri", f"sqlite:///{place}")
    code, output, _ = run("--table", "4", *where, "--out", str(tmp_path / "made"))
    assert code == 0
    names = [f"table_4_{data}.md" for data in ("mine", "synthetic")]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == names
    code, output, _ = run("--table", "4", *where, "--data", "mine", "--out", str(tmp_path / "one"))
    assert code == 0 and [path.name for path in (tmp_path / "one").iterdir()] == names[:1]


def test_a_table_that_is_missing_is_found(uri: str, tmp_path: Path) -> None:
    both = ("--table", "4", "--table", "5", "--tracking-uri", uri)
    code, *_ = run(*both, "--no-plots", "--format", "md", "--out", str(tmp_path))
    assert code == 0
    verify = ["verify", str(tmp_path), *both]
    assert CliRunner().invoke(app, verify).exit_code == 0
    (tmp_path / "table_5_synthetic.md").unlink()
    result = CliRunner().invoke(app, verify)
    assert isinstance(result.exception, TrialFailed)
    assert f"{tmp_path}/table_5_synthetic.md: is missing, and the store gives it" in result.output


def test_tables_are_written_and_shown(uri: str, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    code, output, error = run("--table", "4", "--tracking-uri", uri, "--out", str(out))
    assert (code, error) == (0, None)
    kinds = ("md", "tex", "csv", "json", "png", "svg")
    training = [f"table_4_synthetic_training.{kind}" for kind in ("png", "svg")]
    files = [f"table_4_synthetic.{kind}" for kind in kinds]
    names = [*files, *training, "works.bib", "report_4_synthetic.html"]
    assert set(output.splitlines()[-11:]) == {
        *(str(out / name) for name in names),
        f"open: {out / names[-1]}",
    }
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert "NOT results on UCF-101" in output
    page = (out / names[0]).read_text()
    # Right answers of spatial KD: 5 and 6 of 10 clips; baseline 3 and 4, control 4 and 5.
    row = next(line for line in page.splitlines() if "| TSM+ours | Yes | No |" in line)
    assert "| 55.0 ± 7.1 ⚠ | 55.0 ± 7.1 ⚠ |" in row
    assert "| +20.0 (2 pairs) ⚠ | +10.0 (2 pairs) ⚠ |" in row
    assert "| 90.0 (one training per fold) | 91.0 (one training per fold) |" in page
    assert "accuracy of every arm, seeds as points; the values are those of the table](t" in page
    assert "](table_4_synthetic\\_training.svg)" not in page and "_training.svg)" in page
    assert (out / names[4]).read_bytes().startswith(b"\x89PNG")
    assert (out / names[-1]).read_text().count("data:image/svg+xml;base64,") == 2


def test_the_trials_of_every_cell_are_printed_when_they_are_asked_for(
    uri: str, tmp_path: Path
) -> None:
    options = ("--table", "4", "--format", "md", "--no-plots", "--tracking-uri", uri)
    plain = run(*options, "--out", str(tmp_path))[1]
    code, output, error = run(*options, "--trace", "--out", str(tmp_path))
    assert (code, error) == (0, None)
    arms = [arm for arm in load_sweep("ablation").arms if family_of_arm(arm.setting) == "TSM"]
    runs = open_reader(uri).find({"kind": "trial"})
    assert len(runs) == 2 * len(arms)
    for one in runs:
        where = f"trial {one.trial_id}, run {one.run_id}, commit c0ffee"
        assert where in output and where not in plain


def test_every_table_with_runs_is_written(uri: str, tmp_path: Path) -> None:
    # Tables 2 and 3 need no run of ours once a cost is known.
    cost = {"model": "tsm_r50_16f", "gmacs_per_view": 65.4, "views": 1, "gmacs": 65.4}
    (tmp_path / "cost.json").write_text(json.dumps([{**cost, "parameters": 24_000_000}]))
    options = ("--format", "md,html", "--no-plots", "--tracking-uri", uri, "--out", str(tmp_path))
    code, output, error = run(*options)
    assert (code, error) == (0, None)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table_2_synthetic.md", "table_3_synthetic.md", "table_4_synthetic.md"} <= names
    assert "report_synthetic.html" in names
    assert not [name for name in names if name.endswith((".png", ".svg", ".csv", ".tex"))]
    assert "!\\[" not in (tmp_path / "table_4_synthetic.md").read_text()
    assert "| 390 | 392.4 (65.4 × 6) | +0.6 | teacher " in output
    # What is not there is said, with the command that makes it.
    table_5 = load_sweep("hyperparameters")
    shared = {arm.setting.id for arm in load_sweep("ablation").arms}
    if not shared & {arm.setting.id for arm in table_5.arms}:
        assert "left out: table 5: the store has no finished trial of sweep 'hyperparam" in output


@pytest.mark.slow
def test_the_page_has_all_five_tables_in_a_browser_and_asks_the_network_for_nothing(
    uri: str, tmp_path: Path, browser: Browser
) -> None:
    tables = [word for number in "12345" for word in ("--table", number)]
    code, _, error = run(*tables, "--format", "html", "--tracking-uri", uri, "--out", str(tmp_path))
    assert (code, error) == (0, None)
    (path,) = tmp_path.glob("*.html")
    page = browser.page(path.as_uri())
    for number in "12345":
        assert f'<section id="table-{number}-synthetic">' in page
        assert f"Table {number} on synthetic" in page
    assert page.count("<table>") >= 5
    # All that it refers to is in itself.
    referred = re.findall(r'(?:src|href|data|action|poster|srcset)="([^"]*)"', page)
    assert referred
    assert [one for one in referred if not one.startswith(("#", "data:image/svg+xml;"))] == []
    assert not re.search(r"url\(|@import|<link|<script|<iframe|<object", page)
    assert browser.requests(path.as_uri()) == []
    # What a page does ask for is noticed.
    asking = tmp_path / "asking.html"
    asking.write_text('<img src="http://127.0.0.1:9/picture.png">')
    assert set(browser.requests(asking.as_uri())) == {"http://127.0.0.1:9/picture.png"}


def test_literature_alone_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, output, error = run("--table", "1", "--format", "md")
    assert (code, error) == (0, None)
    assert "Nothing of ours was measured on synthetic." in output
    page = Path("reports/generated/table_1_synthetic.md").read_text()
    assert "| CoViAR \\[1\\] | ResNet-50 | CD | 2018 | 91.0 | 73.2 | — | — | — |" in page
    assert "| TSM+ours | ResNet-50 | CD | - | 95.8 | 73.5 |" in page
    assert "run: cmkd sweep comparison --data synthetic" in page
    assert "printed 73.2; its own paper and repository give 59.1 to 59.2" in page


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--table", "6"], "unknown table '6'; .*"),
        (["--table", "component"], "did you mean 'components'"),
        (["--format", "md,docx"], "unknown format 'docx'"),
        (["--format", ""], "unknown format ''"),
        (["--table", "5"], "no tracking store is there yet; run: cmkd sweep hyperparameters"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, error = run(*arguments)
    assert isinstance(error, InputError) and error.exit_code == 2
    assert re.search(what, str(error))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_of_costs_is_refused(uri: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[1]")
    _, _, error = run("--tracking-uri", uri, "--costs", str(tmp_path / "mine.json"))
    assert isinstance(error, InputError)
    assert "mine.json: no list of costs at 0" in str(error)


def test_an_empty_store_says_what_to_run(uri: str, tmp_path: Path) -> None:
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("DELETE FROM runs")
    connection.close()
    _, _, error = run("--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert isinstance(error, InputError) and error.exit_code == 2
    assert "no finished trial of sweep 'ablation' on data 'synthetic'; run: cmkd sw" in str(error)


def test_the_same_store_gives_the_same_files_and_draws_nothing_twice(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for name, cache in (("a", "first"), ("b", "second"), ("c", "second")):
        monkeypatch.setenv("CMKD_CACHE", str(tmp_path / cache))
        if name == "c":
            monkeypatch.delattr("cmkd.report.figures.pictures.draw_pictures")
        out = str(tmp_path / name)
        assert run("--table", "4", "--tracking-uri", uri, "--out", out)[0] == 0
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == 10


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
    options = ("--no-plots", "--tracking-uri", uri, "--out", str(out))
    assert run(*options)[0] == 0
    assert run(*options, "--sweep", str(path))[0] == 0
    names = {f"{stem}.md" for stem in ("sweep_mine_synthetic", "table_4_synthetic")}
    assert names <= {one.name for one in out.glob("*.md")}
    books = {"report_mine_synthetic.html", "report_synthetic.html"}
    assert books <= {one.name for one in out.glob("*.html")}


@pytest.fixture
def bare_uri(uri: str) -> Iterator[str]:
    """The same store while its folder of artifacts is elsewhere."""
    folder = Path(uri.removeprefix("sqlite:///")).with_name("mlartifacts")
    away = folder.rename(folder.with_name("moved"))
    yield uri
    away.rename(folder)


def test_a_lost_artifact_is_an_input_error(bare_uri: str, tmp_path: Path) -> None:
    arguments = ("--table", "4", "--tracking-uri", bare_uri, "--out", str(tmp_path / "out"))
    _, _, error = run(*arguments)
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    first = next(a for a in load_sweep("ablation").arms if family_of_arm(a.setting) == "TSM")
    run_id = open_reader(bare_uri).find({"setting_id": first.setting.id})[0].run_id
    assert f"run {run_id} has no readable predictions.csv" in str(error)
    assert f"mlflow runs describe --run-id {run_id}" in str(error)
    again = f"sweep again: cmkd sweep ablation --data synthetic --tracking-uri {bare_uri}"
    assert again in str(error)
    assert not (tmp_path / "out").exists()


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


def test_a_report_needs_no_more_packages_than_the_documentation_installs(
    uri: str, tmp_path: Path
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "faq.md").read_text("utf-8")
    (listed,) = re.findall(r"^pip install -c constraints.txt (\w.*)$", page, re.M)
    installed, left = set[str](), listed.split()
    while left:
        name = canonicalize_name(left.pop())
        needs = map(Requirement, [] if name in installed else requires(name) or [])
        installed.add(name)
        left += [need.name for need in needs if need.marker is None or need.marker.evaluate()]
    assert len(installed) <= 35
    lacking = [
        module
        for module, found in packages_distributions().items()
        if not {*map(canonicalize_name, found)} & {*installed, "cmkd"}
    ]
    assert {"torch", "ray", "mlflow", "optuna", "av", "sklearn", "sqlalchemy"} <= {*lacking}
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({lacking!r}))\n"
        f"sys.argv = ['cmkd', 'report', 'tables', '--table', '4', '--tracking-uri', {uri!r}]\n"
        "from cmkd.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "reports/generated").iterdir()}
    assert {"report_4_synthetic.html", "table_4_synthetic.tex", "table_4_synthetic.png"} <= made
