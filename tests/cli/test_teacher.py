"""``cmkd teacher``: what it prints, and what becomes of files that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from cmkd.cli.main import main
from cmkd.config.backbones import BACKBONES, Size
from cmkd.config.trial import StudentConfig, TeacherConfig
from cmkd.method.networks import Teacher


@pytest.fixture
def cmkd(monkeypatch, capsys):
    """``cmkd teacher ARGUMENTS`` in this process: exit code, standard output and error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cmkd", "teacher", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def teacher_file(tmp_path) -> Path:
    """A small teacher as the cache keeps them."""
    torch.manual_seed(0)
    teacher = Teacher(BACKBONES["tiny_tsm"].temporal(Size(3, 8, 16, 8)), 32, 6, 0.3)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def test_an_import_says_what_it_found_and_how_to_use_it(cmkd, teacher_file, tmp_path):
    code, out, err = cmkd("import", str(teacher_file), "--name", "scene")
    assert (code, err) == (0, "")
    found, _, spec = out.partition("To start from them, in a spec:\n")
    facts = dict(line.split(maxsplit=1) for line in found.splitlines() if line)
    assert facts["layout"] == "cmkd"
    assert facts["backbone"] == "tiny_tsm, width 8"
    assert facts["classes"] == "6"
    assert facts["tensors"] == "62, all matched"
    assert facts["dropped"] == "none"
    assert facts["file"] == f"{tmp_path}/cache/weights/{facts['id']}.safetensors"
    assert Path(facts["file"]).is_file()
    lines = yaml.safe_load(spec)
    for part, config in (("teacher", TeacherConfig), ("student", StudentConfig)):
        values = {key.partition(".")[2]: lines[key] for key in lines if key.startswith(part)}
        made = config.model_validate(values)
        assert (made.backbone, made.width, made.weights) == ("tiny_tsm", 8, facts["id"])

    assert f"{facts['id']} (imported before as scene)" in cmkd("import", str(teacher_file))[1]
    code, out, _ = cmkd("list")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["id", "backbone", "classes", "layout", "name", "file"],
        [facts["id"], "tiny_tsm", "6", "cmkd", "scene", "teacher.safetensors"],
    ]


def test_a_file_without_classifier_says_so(cmkd, tmp_path):
    network = BACKBONES["tiny_tdn"].temporal(Size(3, 8, 16, 8))
    state = {f"module.backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "backbone.pth")
    code, out, _ = cmkd("import", str(tmp_path / "backbone.pth"))
    assert code == 0
    assert "classes   none, the file has no classifier\n" in out
    assert cmkd("list")[1].splitlines()[1].split()[2] == "none"


def test_an_empty_list_has_its_heading_alone(cmkd):
    assert cmkd("list") == (0, "id  backbone  classes  layout  name  file\n", "")


def page(path: Path) -> None:
    path.write_text("<html>Sign in to download</html>")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_keys(path: Path) -> None:
    torch.save({"module.base_model.features.0.0.weight": torch.zeros(32, 3, 3, 3)}, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "cannot be read (No such file or directory)"),
        (page, "neither safetensors nor"),
        (half, "cut short or damaged"),
        (other_keys, "unexpected: module.base_model.features.0.0.weight"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(damage, reason, cmkd, teacher_file, tmp_path):
    damage(teacher_file)
    code, out, err = cmkd("import", str(teacher_file))
    assert (code, out) == (2, "")
    assert err.startswith(f"cmkd: {teacher_file}: ")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "cache" / "weights").exists()


def test_a_name_that_is_no_word_is_refused(cmkd, teacher_file):
    code, _, err = cmkd("import", str(teacher_file), "--name", "K400 8f")
    assert code == 2
    assert "as in 'K400-8f'" in err


def test_help_is_there_without_torch():
    code = (
        "import sys\nfrom cmkd.cli.main import main\n"
        "sys.argv = ['cmkd', 'teacher', 'import', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
