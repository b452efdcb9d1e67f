"""The notebook of ``examples/``, run as Jupyter runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import cmkd

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "first_sweep.ipynb"


def code_of(notebook: nbformat.NotebookNode) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(notebook: nbformat.NotebookNode, folder: Path) -> list[Any]:
    """Cells of code after a run in `folder` that stops at no error."""
    client = NotebookClient(
        notebook, timeout=None, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    return code_of(client.execute())


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in code_of(notebook):
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
def test_it_trains_reports_and_predicts(tmp_path: Path) -> None:
    cells = executed(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    failed = [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert not failed, "\n".join(failed[0].traceback)
    assert cmkd.results.trials(f"sqlite:///{tmp_path}/mlflow.db")["arm"].tolist() == [
        "baseline",
        "control",
        "both",
    ]
    assert any(page.is_file() for page in (tmp_path / "report").glob("report_*.html"))
    label, probability, _ = eval(cells[-1].outputs[0].data["text/plain"])
    assert label and 0 < probability <= 1


@pytest.mark.slow
def test_a_notebook_without_a_store_gets_one_line_with_the_remedy(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("import cmkd\ncmkd.results.trials()")
    ((output,),) = [
        done.outputs for done in executed(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
    ]
    (line,) = output.traceback
    assert line.startswith(f"InputError: sqlite:///{tmp_path}/mlflow.db: no tracking store")
    assert "run a sweep" in line
