"""Python interface to sweeps and reports; the commands call the same functions.

import cmkd

result = cmkd.run_sweep("ablation", seeds=3, only=["tsm_*"])
cmkd.results.trials(sweep="ablation").groupby("arm")["test_acc"].mean()
cmkd.write_report("reports/generated", sweep="ablation")
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd import __version__

if TYPE_CHECKING:
    from cmkd.config.sweep import Sweep
    from cmkd.report.build import Format, TableReport
    from cmkd.sweep.progress import Progress, SweepView, TrialProgress
    from cmkd.sweep.run import SweepResult


def run_sweep(
    spec: str | Sweep,
    *,
    data: str | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    workers: int | None = None,
    processes: int = 1,
    address: str | None = None,
    tracking_uri: str | None = None,
    until_decided: int | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
    approved: bool = True,
    dry_run: bool = False,
    view: SweepView | None = None,
) -> SweepResult:
    """Train every trial of a sweep that the store lacks; the same call resumes.

    A trial that fails raises nothing: see `SweepResult.failures`.

    Args:
        spec: name of a sweep, path of its YAML file, or what `load_sweep` made of it.
        data: data set by name or path; None: that of the spec.
        seeds: seeds per arm and fold; None: those of the spec.
        only: patterns of the arms to train (``tsm_*``); empty: all.
        workers: trials trained at once; None: one per CPU, on a cluster one per GPU.
        processes: of the `workers`, that train one trial together.
        address: Ray cluster to join, ``host:port`` or ``auto``; None: Ray on this machine.
        tracking_uri: store of the runs; None: ``$MLFLOW_TRACKING_URI``, else ``./mlflow.db``.
        until_decided: most seeds of arms whose order is open; None: no further seeds.
        retry_failed: train again what failed before.
        fresh: train what the store lacks, whatever the cache has.
        approved: run a large sweep without asking `view`.
        dry_run: train nothing; the result has the plan and a forecast.
        view: shows the progress; None: the logger ``cmkd``.

    Raises:
        InputError: the sweep cannot be run as asked; nothing was trained.
        TrialFailed: the first trials failed alike; the others were not tried.
        InfrastructureError: store, disk or engine failed.
    """
    from cmkd.config.paths import usable_cache
    from cmkd.config.sweep import load_sweep
    from cmkd.sweep import run
    from cmkd.sweep.plan import SweepRequest

    sweep = load_sweep(spec, unlimited=approved) if isinstance(spec, str) else spec
    request = SweepRequest(
        sweep=sweep,
        data=data or sweep.spec.data,
        seeds=seeds or sweep.spec.seeds,
        workers=_default_workers(address) if workers is None else workers,
        cache=usable_cache(),
        tracking_uri=tracking_uri,
        only=tuple(only),
        retry_failed=retry_failed,
        approved=approved,
        processes=processes,
        until_decided=until_decided,
        address=address,
        fresh=fresh,
    )
    # A pattern that matches no arm and too few seeds are refused before anything is made.
    sweep.only(request.only)
    _ = request.looks
    if dry_run:
        plan, expected = run.preview(request, view or LogView())
        return run.SweepResult(plan, expected=expected)
    return run.run_sweep(request, view or LogView(), _pictures)


def write_report(
    out: str | Path = "reports/generated",
    *,
    tables: Sequence[str] = (),
    data: str | None = None,
    sweep: str | None = None,
    tracking_uri: str | None = None,
    formats: Sequence[Format] = ("md", "tex", "csv", "json", "html"),
    plots: bool = True,
    costs: Path | None = None,
    mlflow_url: str | None = None,
) -> TableReport:
    """Write the tables of the paper with our rows, and a table of every other sweep.

    Args:
        out: folder of the files, whose names are the keys of `TableReport.files`.
        tables: ``1`` to ``5``, ``components`` or YAML files of printed rows; empty: every table
            and sweep with finished runs.
        data: data set by name or id; None: every one of the store, with `sweep` the sweep's own.
        sweep: the only sweep; with `tables`, the one whose arms are the rows.
        tracking_uri: store of the runs; None: ``$MLFLOW_TRACKING_URI``, else ``./mlflow.db``.
        plots: draw figures, as PNG and SVG.
        costs: file of measured costs; None: ``cost.json`` in `out`.
        mlflow_url: address of MLflow's pages, for links; None: the store, if it is a server.

    Raises:
        InputError: an unknown table, no finished run, or a folder that cannot be written.
        InfrastructureError: the store does not answer, or the disk fails.
    """
    from cmkd.config.paths import cache_root
    from cmkd.report.build import table_report, write_files
    from cmkd.report.gather import Request

    out = Path(out)
    request = Request(
        tuple(tables), data, sweep, tracking_uri, costs or out / "cost.json", mlflow_url
    )
    report = table_report(
        request,
        formats,
        plots=plots,
        version=f"cmkd {__version__}",
        kept=cache_root() / "pictures",
    )
    write_files(out, report.files)
    return report


class LogView:
    """View of a sweep that logs to the logger ``cmkd`` and answers no question."""

    _log = logging.getLogger("cmkd")

    def confirm(self, question: str) -> bool:
        """False: nobody is there."""
        return False

    def note(self, text: str) -> None:
        """Log the line."""
        self._log.info(text)

    def stage(self, text: str, done: int, total: int) -> None:
        """Log the end of the stage."""
        if done == total:
            self._log.info("%s: %d", text, total)

    def show(self, progress: Progress) -> None:
        """Log nothing: epochs are many."""

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Log the end of the trial."""
        self._log.info("%s: %s", trial.name, trial.cause or trial.status)


def _default_workers(address: str | None) -> int:
    if address is None:
        from cmkd.machine import usable_cpus

        return usable_cpus()
    from cmkd.sweep.ray_engine import default_workers

    return default_workers(address)


def _pictures(files: Sequence[Path], folder: Path) -> Sequence[Path]:
    # Imported with the first trial that ends: it takes a second.
    from cmkd.report.figures.pictures import pictures_of

    return pictures_of(files, folder)
