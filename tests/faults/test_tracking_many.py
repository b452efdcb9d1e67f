"""Many trials of one step: nothing lost, nothing double, and a store that never complains."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.many import measure_many
from benchmarks.servers import mlflow_server, postgres_binaries, postgres_server

TRIALS = 100

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_hundred_trials_of_one_step_are_all_there_once(tmp_path: Path, kind: str) -> None:
    if kind == "postgresql" and postgres_binaries() is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    with ExitStack() as stack:
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        if kind == "postgresql":
            postgres = stack.enter_context(postgres_server())
            uri = stack.enter_context(mlflow_server(tmp_path, postgres.url)).url
        figures = measure_many(tmp_path, TRIALS, uri)
    assert (figures.code, figures.statuses, figures.missing) == (0, {"FINISHED": TRIALS}, 0)
    assert figures.complaints == []
