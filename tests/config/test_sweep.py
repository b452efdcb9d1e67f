"""Specs: expansion, precedence, and mistakes that name file, line and key."""

import re
from pathlib import Path

import pytest

from cmkd.config.method import MethodConfig
from cmkd.config.paths import find_spec
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting, preset
from cmkd.errors import ConfigError

HEAD = "name: s\ndescription: d\n"


@pytest.fixture
def sweep(tmp_path: Path):
    def sweep(body: str):
        path = tmp_path / "s.yaml"
        path.write_text(HEAD + body)
        return load_sweep(str(path))

    return sweep


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_value_alone_is_a_list_of_one(sweep) -> None:
    lists = sweep(
        "blocks: {a: {method.lambda_1: [0.0], method.tg: [[1, 2]], method.heads: [1, 2]}}"
    )
    alone = sweep("blocks: {a: {method.lambda_1: 0.0, method.tg: [[1, 2]], method.heads: [1, 2]}}")
    assert alone.arms == lists.arms
    assert [arm.name for arm in alone.arms] == ["a[heads=1]", "a[heads=2]"]


def test_table_4_has_the_paper_rows_and_a_control_of_each_half(empty_folder: Path) -> None:
    ablation = load_sweep("ablation")
    rows = {
        arm.name: (
            arm.setting.student.backbone,
            arm.setting.method.decoder,
            arm.setting.method.lambda_1,
            arm.setting.method.lambda_2,
        )
        for arm in ablation.arms
    }
    assert rows == {
        f"{half}_{name}": (f"tiny_{half}", *method)
        for half in ("tsm", "tdn")
        for name, method in {
            "baseline": (False, 0.0, 0.0),
            "control": (True, 0.0, 0.0),
            "spatial": (True, 0.1, 0.0),
            "temporal": (True, 0.0, 1.0),
            "both": (True, 0.1, 1.0),
            "logits": (True, 0.0, 0.0),
        }.items()
    } | {
        "tsm_untrained": ("tiny_tsm", True, 0.1, 0.0),
        "tsm_printed": ("tiny_tsm", True, 0.1, 1.0),
    }
    assert len({arm.setting.id for arm in ablation.arms}) == 14
    assert {
        arm.setting.teacher.backbone == arm.setting.student.backbone for arm in ablation.arms
    } == {True}
    assert [arm.name for arm in ablation.arms if arm.setting.teacher.untrained] == ["tsm_untrained"]
    assert {arm.setting.method for arm in ablation.only(["*_both"]).arms} == {MethodConfig()}
    needs = {
        arm.name.partition("_")[2] for arm in ablation.arms if arm.setting.method.needs_teacher
    }
    assert needs == {"spatial", "temporal", "both", "logits", "untrained", "printed"}


def test_every_shipped_spec_loads(empty_folder: Path) -> None:
    shipped = sorted(path.stem for path in find_spec("ablation").parent.glob("*.yaml"))
    assert "ablation" in shipped and "smoke" in shipped
    for name in shipped:
        assert load_sweep(name).spec.name == name


def test_a_block_is_the_product_of_its_lists_in_file_order(sweep) -> None:
    arms = sweep(
        "blocks:\n"
        "  grid:\n"
        "    method.lambda_1: [0.0, 0.5]\n"
        "    method.tg: [[1], [2, 3]]\n"
        "    training.epochs: [3]\n"
        "  alone: {}\n"
    ).arms
    assert [arm.name for arm in arms] == [
        "grid[lambda_1=0.0,tg=1]",
        "grid[lambda_1=0.0,tg=2+3]",
        "grid[lambda_1=0.5,tg=1]",
        "grid[lambda_1=0.5,tg=2+3]",
        "alone",
    ]
    assert [arm.setting.method.tg for arm in arms] == [(1,), (2, 3), (1,), (2, 3), (1, 2, 3)]
    assert [arm.setting.training.epochs for arm in arms] == [3, 3, 3, 3, 10]


def test_block_over_base_over_default(sweep) -> None:
    spec = sweep(
        "base: {method.lambda_1: 0.7, training.epochs: 5}\n"
        "blocks:\n"
        "  a: {method.lambda_1: [0.2]}\n"
        "  b: {}\n"
    )
    assert [arm.setting.method.lambda_1 for arm in spec.arms] == [0.2, 0.7]
    assert [arm.setting.training.epochs for arm in spec.arms] == [5, 5]
    assert [arm.setting.method.lambda_2 for arm in spec.arms] == [1.0, 1.0]


def test_base_over_preset_over_default(sweep) -> None:
    (arm,) = sweep("preset: tsm-ssv2\nbase: {training.lr: 0.5}\nblocks:\n  a: {}\n").arms
    setting = preset("tsm-ssv2")
    assert arm.setting.training.lr == 0.5 != setting.training.lr
    changed = setting.training.model_copy(update={"lr": 0.5})
    assert arm.setting == setting.model_copy(update={"training": changed})


def test_a_preset_that_is_not_there_names_the_nearest(sweep, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep("preset: tsm-ssv3\nblocks:\n  a: {}\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 's.yaml'}:3: unknown preset 'tsm-ssv3'; did you mean ")


def test_a_grid_of_a_million_cells_is_counted_and_not_expanded(sweep) -> None:
    values = ", ".join(str(n / 1000) for n in range(1, 1001))
    body = f"blocks:\n  a:\n    method.lambda_1: [{values}]\n    method.lambda_2: [{values}]\n"
    with pytest.raises(ConfigError, match=r"has 1000000 arms; --yes allows more than 10000$"):
        sweep(body)


def test_a_key_of_the_teacher_leaves_the_teachers_other_defaults(sweep) -> None:
    (arm,) = sweep("blocks:\n  a: {teacher.training.lr: [0.01]}\n").arms
    expected = Setting().teacher.training
    assert arm.setting.teacher.training.lr == 0.01
    assert arm.setting.teacher.training.epochs == expected.epochs == 20


def test_equal_settings_have_equal_ids_however_they_are_written(sweep) -> None:
    spec = sweep("base: {training.epochs: 10}\nblocks:\n  a: {}\n  b: {method.lambda_2: [1]}\n")
    assert {arm.setting.id for arm in spec.arms} == {Setting().id}


def test_arms_are_chosen_by_name_and_by_wildcard(sweep) -> None:
    spec = sweep("blocks:\n  tsm: {method.lambda_1: [0.1, 0.5]}\n  tdn_a: {}\n  tdn_b: {}\n")
    chosen = {
        ("tdn_*",): ["tdn_a", "tdn_b"],
        ("tdn_?", "tsm[lambda_1=0.5]"): ["tsm[lambda_1=0.5]", "tdn_a", "tdn_b"],
        ("*0.1]",): ["tsm[lambda_1=0.1]"],
        (): [arm.name for arm in spec.arms],
    }
    assert {key: [arm.name for arm in spec.only(key).arms] for key in chosen} == chosen


def test_a_pattern_that_matches_no_arm_names_the_nearest(sweep) -> None:
    spec = sweep("blocks:\n  spatial: {}\n  temporal: {}\n")
    with pytest.raises(ConfigError, match=r"no arm matches 'spacial'; did you mean 'spatial'\?"):
        spec.only(["temporal", "spacial"])


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("sedes: 3\nblocks:\n  a: {}\n", 3, "unknown key 'sedes'; did you mean 'seeds'?"),
        ("seeds: '3'\nblocks:\n  a: {}\n", 3, "seeds: Input should be a valid integer (got '3')"),
        ("seeds: 0\nblocks:\n  a: {}\n", 3, "seeds"),
        ("blocks: {}\n", 3, "blocks"),
        ("blocks:\n  a:\n", 4, "blocks.a"),
        ("base:\nblocks:\n  a: {}\n", 3, "base"),
        (
            "blocks:\n  a:\n    method.lamda_1: [0.1]\n",
            5,
            "unknown key method.'lamda_1'; did you mean 'lambda_1'?",
        ),
        ("blocks:\n  a:\n    methd.lambda_1: [0.1]\n", 5, "unknown key 'methd'; did you mean"),
        ("blocks:\n  a:\n    method.lambda_1: ['0']\n", 5, "(got '0')"),
        ("blocks:\n  a:\n    method.lambda_1: [-0.1]\n", 5, "(got -0.1)"),
        ("blocks:\n  a:\n    training.epochs: [5.0]\n", 5, "(got 5.0)"),
        ("blocks:\n  a:\n    training.epochs: [010]\n", 5, "training.epochs"),
        ("blocks:\n  a:\n    training.lr: [1e999]\n", 5, "finite"),
        ("blocks:\n  a:\n    method.decoder: [no]\n", 5, "(got 'no')"),
        ("blocks:\n  a:\n    method.tg: [[1, 4]]\n", 5, "(got 4)"),
        ("blocks:\n  a:\n    method.tg: [[2, 1]]\n", 5, "ascending"),
        ("blocks:\n  a:\n    method.decoder: [false]\n", 5, "set lambda_1 and lambda_2 to 0.0"),
        ("blocks:\n  a:\n    training.lr: []\n", 5, "at least 1 item"),
        ("blocks:\n  a:\n    training.lr: -0.1\n", 5, "(got -0.1)"),
        ("base: {training.lr: -1.0}\nblocks:\n  a: {}\n", 3, "(got -1.0)"),
        ("base: {method: 3}\nblocks:\n  a:\n    method.tg: [[1]]\n", 6, "overlaps"),
        ("blocks:\n  '<b>|': {}\n", 4, "<b>|"),
        ("blocks:\n  '': {}\n", 4, "pattern"),
    ],
)
def test_mistakes_name_file_line_and_key(
    sweep, tmp_path: Path, body: str, line: int, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(body)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 's.yaml'}:{line}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "body",
    [
        "base:\n  method: {lambda_1: 0.1}\nblocks:\n  a: {method.lambda_1: [0.5]}\n  b: {}\n",
        "base:\n  method.lambda_1: 0.7\n  method: {lambda_2: 0.3}\nblocks:\n  a: {}\n",
        "base: {training.lr: 0.5}\nblocks:\n  a: {training: [{epochs: 7}]}\n",
    ],
)
def test_a_nested_mapping_is_refused_as_it_would_hide_or_leak_values(sweep, body: str) -> None:
    with pytest.raises(ConfigError, match=r"s\.yaml:\d+: .*dotted"):
        sweep(body)


def test_two_arms_of_one_name(sweep) -> None:
    with pytest.raises(ConfigError, match=re.escape("two arms are called 'a[lr=0.1]'")):
        sweep("blocks:\n  a: {training.lr: [0.1, 0.1]}\n")


def test_a_name_that_is_no_slug(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: ../evil\ndescription: d\nblocks:\n  a: {}\n")
    with pytest.raises(ConfigError, match=r"s\.yaml:1: name: "):
        load_sweep(str(path))


def test_the_working_directory_wins_over_the_shipped_spec(empty_folder: Path) -> None:
    local = Path("sweeps", "ablation.yaml")
    assert find_spec("ablation") != local
    local.parent.mkdir()
    local.write_text("name: ablation\ndescription: mine\nblocks:\n  only: {}\n")
    assert find_spec("ablation") == local
    assert [arm.name for arm in load_sweep("ablation").arms] == ["only"]


@pytest.mark.parametrize("name", ["ablatoin", "", "../ablation", "a/b", "/", "x" * 300])
def test_an_unknown_spec_names_the_known_ones(empty_folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown sweep .*(did you mean|known:).*ablation"):
        load_sweep(name)


def test_a_path_that_is_not_there(empty_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: cannot be read"):
        load_sweep("mine.yaml")


def test_all_mistakes_of_a_file_are_told_at_once(sweep, tmp_path: Path) -> None:
    body = (
        "seds: 3\n"  # line 3
        "preset: tsm-ssv3\n"
        "base:\n"
        "  trainig.epochs: 5\n"
        "  student.backbone: tiny_tms\n"
        "select:\n"
        "  best: {key: method.lambda_1, among: [wieghts], rule: best_mean_val_acc}\n"
        "blocks:\n"
        "  weights: {method.lamda_1: [0.1, 0.2]}\n"
        "  graphs:\n"
        "    method.tg: [[1, 4]]\n"
        "    method.heads: '2'\n"
        "    method.lambda_2: [-1, 1, $bset]\n"
        "  '<b>|': {}\n"
    )
    with pytest.raises(ConfigError) as caught:
        sweep(body)
    file = tmp_path / "s.yaml"
    assert {line.removeprefix(f"{file}:") for line in str(caught.value).splitlines()} == {
        "3: unknown key 'seds'; did you mean 'seeds'?",
        "4: unknown preset 'tsm-ssv3'; did you mean 'tsm-ssv2'?",
        "6: unknown key 'trainig'; did you mean 'training'?",
        "7: student.backbone: unknown backbone 'tiny_tms'; did you mean 'tiny_tsm'?; or write "
        "module:object",
        "9: no block 'wieghts'; did you mean 'weights'?",
        "11: unknown key method.'lamda_1'; did you mean 'lambda_1'?",
        "13: method.tg.1: Input should be 1, 2 or 3 (got 4)",
        "14: method.heads: Input should be a valid integer (got '2')",
        "15: method.lambda_2: Input should be greater than or equal to 0 (got -1)",
        "15: no selection 'bset'; did you mean 'best'?",
        "16: blocks.<b>|.[key]: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$' "
        "(got '<b>|')",
    }


def test_a_misspelt_required_key_is_told_once_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("nane: s\ndescription: d\nblocks:\n  a: {method.lamda_1: [0.1]}\n")
    with pytest.raises(ConfigError) as caught:
        load_sweep(str(path))
    assert str(caught.value).splitlines() == [
        f"{path}:1: unknown key 'nane'; did you mean 'name'?",
        f"{path}:4: unknown key method.'lamda_1'; did you mean 'lambda_1'?",
    ]
