"""``cmkd sweep list``, ``show`` and ``new``: sweep files, known and new ones."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cmkd.cli.work import aligned
from cmkd.errors import ConfigError, InputError

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="Its name, or a path to a YAML file.")]


class SweepGroup(TyperGroup):
    """``cmkd sweep SPEC`` means ``cmkd sweep run SPEC``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` before anything that is no command."""
        is_known = bool(args) and (args[0] in self.commands or args[0] in ("-h", "--help"))
        return super().parse_args(ctx, args if is_known else ["run", *args])


def list_specs() -> None:
    """List the sweep files of ./sweeps and of the package, with the question each answers."""
    from cmkd.config.paths import known_specs
    from cmkd.config.sweep import SweepSpec
    from cmkd.config.yaml_loader import read_model

    rows = []
    for name, path in sorted(known_specs().items()):
        try:
            text = " ".join(read_model(path, SweepSpec)[0].description.split())
        except ConfigError as error:
            text = f"cannot be used: {error.problem.splitlines()[0]}"
        place = "" if path.is_absolute() else str(path)
        rows.append((name, place, textwrap.shorten(text, 100, placeholder=" ...")))
    typer.echo("\n".join(aligned(rows)))


def show(spec: Spec) -> None:
    """Print a sweep file, to read or to copy; `cmkd sweep SPEC --dry-run` shows its trials."""
    from cmkd.config.paths import find_spec
    from cmkd.config.yaml_loader import read_yaml

    typer.echo(read_yaml(find_spec(spec)).path.read_text(encoding="utf-8"), nl=False)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new sweep.")],
    source: Annotated[
        str, typer.Option("--from", metavar="SPEC", help="Sweep file to start from.")
    ] = "ablation",
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Value of a key for all arms, as in base; can be repeated. Comments go then.",
        ),
    ] = None,
) -> None:
    """Write sweeps/NAME.yaml from another sweep file, with values of your own.

    Every setting stands in a file, so that a report can tell what a sweep was.
    """
    import yaml

    from cmkd.config.paths import find_spec, known_specs
    from cmkd.config.sweep import NAME, load_sweep
    from cmkd.config.yaml_loader import read_yaml
    from cmkd.io import make_folder, write_text

    if not re.fullmatch(NAME, name):
        raise InputError(f"name {name!r}: use up to 64 letters, digits, _ and -")
    if name in known_specs():
        raise InputError(f"name {name!r}: {known_specs()[name]} has it; choose another")
    document = read_yaml(find_spec(source))
    text = document.path.read_text(encoding="utf-8")
    text = re.sub(r"^name:.*$", f"name: {name}", text, count=1, flags=re.M)
    given = dict(_pair(value) for value in values or ())
    if given:
        data = {**document.data, "name": name}
        for key in given:
            swept = [block for block, axes in data.get("blocks", {}).items() if key in axes]
            if swept:
                raise InputError(
                    f"--set {key}: block {swept[0]!r} of {document.path} has values of its own",
                    "leave it out, and change them in the new file",
                )
        kept = {key: value for key, value in data.pop("base", {}).items() if key not in given}
        base = yaml.safe_dump(kept, sort_keys=False) if kept else ""
        base += "".join(f"{key}: {value}\n" for key, value in given.items())
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        text += f"base:\n{textwrap.indent(base, '  ')}"
    path = Path("sweeps", f"{name}.yaml")
    make_folder(path.parent)
    write_text(path, text)
    try:
        load_sweep(str(path), unlimited=True)
    except ConfigError as error:
        path.unlink()
        # Without the lines of a file that is gone.
        reason = "; ".join(line.partition(": ")[2] for line in error.problem.splitlines())
        raise InputError(f"{' '.join(values or [source])}: {reason}") from error
    typer.echo(f"{path}; look at its trials: cmkd sweep {name} --dry-run")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value) or "\n" in text:
        raise InputError(f"--set {text!r}: write KEY=VALUE, as training.epochs=3")
    return key.strip(), value.strip()
