"""README and docs against the program: commands, keys, sweep files, Python and links.

Run as a program it renews the generated list of keys in ``docs/sweep-files.md``.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
KEYS = ROOT / "docs" / "sweep-files.md"
BEGIN, END = "<!-- keys -->\n", "<!-- /keys -->"
MOST_WORDS = 1300


def blocks(kind: str) -> list[tuple[Path, str]]:
    """Fenced blocks of a language, with their page."""
    fence = re.compile(rf"^```{kind}\n(.*?)^```$", re.M | re.S)
    return [(page, found) for page in PAGES for found in fence.findall(page.read_text("utf-8"))]


def commands() -> Iterator[tuple[str, str]]:
    for page, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = line.partition(" #")[0].strip().removeprefix(".venv/bin/")
            if words.startswith("cmkd "):
                yield page.name, words


def leaf(words: list[str]) -> tuple[object, list[str]]:
    """The command that `words` name, and its arguments."""
    from cmkd.cli.main import app
    from cmkd.cli.specs import SweepGroup

    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    if isinstance(command, SweepGroup):
        return command.commands["run"], words
    return command, words


@pytest.mark.parametrize(("page", "line"), list(commands()), ids=lambda text: text)
def test_every_command_of_a_block_parses(page: str, line: str) -> None:
    command, rest = leaf(shlex.split(line)[1:])
    assert not hasattr(command, "commands"), f"{page}: {line} names no command"
    with command.make_context("cmkd", rest):  # type: ignore[attr-defined]
        pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for code in re.findall(r"`(?:\.venv/bin/)?cmkd ([^`]+)`", text):
        words = code.split()
        command, rest = leaf(words)
        is_general = words[0].startswith("-")
        assert is_general or rest != words, f"{page.name}: cmkd {code}"
        known = {n for one in command.params for n in (*one.opts, *one.secondary_opts)}  # type: ignore[attr-defined]
        known |= {"-h", "--help", "--install-completion", "--show-completion"}
        options = {word for word in rest if word.startswith("-")}
        assert options <= known, f"{page.name}: cmkd {code}"


@pytest.mark.parametrize(
    ("page", "text"),
    blocks("yaml"),
    ids=[f"{page.name}-{i}" for i, (page, _) in enumerate(blocks("yaml"))],
)
def test_every_sweep_file_loads(page: Path, text: str, tmp_path: Path) -> None:
    from cmkd.config.sweep import load_sweep

    if page.name == "extending.md":
        pytest.skip("run by test_extending.py")
    if "runs-on:" in text:
        pytest.skip("a workflow of GitHub Actions")
    if "name:" not in text:
        # Lines for the base of a sweep file.
        lines = "".join(f"  {line}\n" for line in text.splitlines())
        zero = "  method.lambda_1: 0.0\n"
        text = f"name: t\ndescription: d\nbase:\n{zero}{lines}blocks:\n  only: {{}}\n"
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    sweep = load_sweep(str(path))
    assert sweep.arms or sweep.spec.search, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of two arms, as ``mlflow.db``."""
    folder = tmp_path_factory.mktemp("stored")
    fill = runpy.run_path(str(ROOT / "tests" / "test_results.py"))["fill"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fill(f"sqlite:///{folder}/mlflow.db", folder)
    return folder


@pytest.mark.parametrize(
    ("page", "text"),
    [(p, t) for p, t in blocks("python") if p.name not in ("extending.md", "predict.md")],
    ids=lambda part: getattr(part, "name", ""),
)
def test_every_block_of_python_runs(
    page: Path, text: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stored)
    names: dict[str, object] = {}
    exec(compile(text, str(page), "exec"), names)
    assert len(names) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "text"),
    [(p, t) for p, t in blocks("py") if "run_sweep" in t],
    ids=lambda part: getattr(part, "name", ""),
)
def test_every_block_that_trains_runs_on_the_smallest_set(
    page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmkd.data.dataset import open_dataset

    monkeypatch.chdir(tmp_path)
    data = open_dataset("synthetic-smoke", tmp_path / "cache")
    shutil.copy(data.root / data.clips[0].path, "clip.mp4")
    for word, small in {'"ablation"': '"smoke"', "seeds=3": "seeds=1", "tsm_*": "*"}.items():
        text = text.replace(word, small)
    names: dict[str, object] = {}
    exec(compile(text, str(page), "exec"), names)
    assert (tmp_path / "mlflow.db").is_file()


def test_the_readme_is_short_and_has_room_for_the_result() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= MOST_WORDS
    assert text.index("<!-- result -->") < text.index("<!-- /result -->")


def test_the_list_of_keys_is_that_of_the_program() -> None:
    page = KEYS.read_text("utf-8")
    assert page == renewed(page), "run: make keys"


def renewed(page: str) -> str:
    """The page with the keys of the program."""
    from cmkd.cli.keys import sections

    lines: list[str] = []
    for title, keys in sections().items():
        lines += [f"### {title}", ""]
        lines += ["| key | type | range | default | meaning |", "|---|---|---|---|---|"]
        for key in keys:
            kind, meaning = (text.replace("|", "\\|") for text in (key.type, key.meaning))
            lines.append(f"| `{key.key}` | {kind} | {key.range} | `{key.default}` | {meaning} |")
        lines.append("")
    before, _, rest = page.partition(BEGIN)
    return "\n".join([before + BEGIN, *lines]) + END + rest.partition(END)[2]


if __name__ == "__main__":
    KEYS.write_text(renewed(KEYS.read_text("utf-8")), encoding="utf-8")
