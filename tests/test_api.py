"""``cmkd.run_sweep`` and ``cmkd.write_report``: signatures, and what they load."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cmkd
from cmkd.errors import ConfigError, InputError
from cmkd.sweep import run
from cmkd.sweep.plan import Plan, SweepRequest
from cmkd.sweep.progress import SweepView
from cmkd.sweep.run import SweepResult

SWEEP = {
    "data": None,
    "seeds": None,
    "only": (),
    "workers": None,
    "processes": 1,
    "address": None,
    "tracking_uri": None,
    "until_decided": None,
    "retry_failed": False,
    "fresh": False,
    "approved": True,
    "dry_run": False,
    "view": None,
}
REPORT = {
    "tables": (),
    "data": None,
    "sweep": None,
    "tracking_uri": None,
    "formats": ("md", "tex", "csv", "json", "html"),
    "plots": True,
    "costs": None,
    "mlflow_url": None,
}


@pytest.mark.parametrize(
    ("function", "first", "options"),
    [(cmkd.run_sweep, "spec", SWEEP), (cmkd.write_report, "out", REPORT)],
)
def test_the_signatures_last(function: object, first: str, options: dict[str, object]) -> None:
    found = dict(inspect.signature(function).parameters)  # type: ignore[arg-type]
    assert next(iter(found)) == first
    del found[first]
    assert {name: option.default for name, option in found.items()} == options
    assert {option.kind for option in found.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(f"{name}:" in (function.__doc__ or "") for name in options if name != "formats")


def test_the_names_load_nothing_heavy() -> None:
    code = (
        "import sys, cmkd\n"
        "cmkd.run_sweep, cmkd.write_report\n"
        "assert {'results', 'run_sweep', 'write_report'} <= set(dir(cmkd))\n"
        "print({'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
    with pytest.raises(AttributeError, match="no attribute 'sweeps'"):
        _ = cmkd.sweeps  # type: ignore[attr-defined]


def test_a_driver_that_finds_its_clips_decoded_loads_no_torch() -> None:
    code = (
        "import sys, cmkd.sweep.run, cmkd.data.decoded_cache\n"
        "print({'torch', 'ray', 'mlflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_options_and_defaults_of_the_spec_reach_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "cache"))
    asked: list[SweepRequest] = []

    def fake(request: SweepRequest, view: SweepView, draw: object) -> SweepResult:
        asked.append(request)
        view.note("seen")
        return SweepResult(Plan((), {}))

    monkeypatch.setattr(run, "run_sweep", fake)
    result = cmkd.run_sweep("smoke", seeds=2, only=["both"], workers=1, fresh=True)
    assert result.failures == () and result.expected is None
    (request,) = asked
    assert (request.data, request.seeds, request.only) == ("synthetic-smoke", 2, ("both",))
    assert request.approved and request.fresh and request.cache == tmp_path / "cache"
    with pytest.raises(ConfigError, match="no arm matches 'bot'"):
        cmkd.run_sweep("smoke", only=["bot"])
    with pytest.raises(InputError, match="give --seeds 3 or more"):
        cmkd.run_sweep("smoke", until_decided=9)
    assert len(asked) == 1


def test_a_report_of_no_store_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="run: cmkd sweep ablation"):
        cmkd.write_report("out")
    made = cmkd.write_report("out", tables=["1"], formats=["md"], plots=False)
    assert [Path("out", name).is_file() for name in made.files] == [True]
