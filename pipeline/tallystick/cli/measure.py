"""``tally measure``: the group. Each sibling file ``measure_*.py`` adds its own commands, when one is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from tallystick.cli.output import command_app

if TYPE_CHECKING:
    from typer._click import Command, Context  # typer carries its own copy of click

# command -> the module under tallystick.cli that registers it, in the order of --help
MODULES = {
    "uki": "measure_uki",
    "nitro-tpm": "measure_disk",
    "snp": "measure_tee",
    "tdx": "measure_tee",
    "sgx": "measure_tee",
    "nitro": "measure_tee",
    "cca": "measure_tee",
    "initdata": "measure_config",
    "cce": "measure_config",
    "model": "measure_config",
    "nvidia": "measure_nvidia",
    "diff": "measure_diff",
}


class _Lazy(TyperGroup):
    """A group that loads, and makes parsers for, only the module whose command runs."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        return command(cmd_name) if cmd_name in MODULES else None


def command(name: str) -> Command:
    """Return the command ``name`` as its module registers it."""
    one = command_app()
    importlib.import_module(f"tallystick.cli.{MODULES[name]}").register(one)
    kept = [info for info in one.registered_commands if _name(info) == name]
    one.registered_commands[:] = kept
    found = typer.main.get_command(one)
    found.name = name
    return found


def _name(info: typer.models.CommandInfo) -> str:
    return info.name or (info.callback.__name__.replace("_", "-") if info.callback else "")


app = typer.Typer(
    cls=_Lazy,
    help="Predict a launch measurement from files; say why two differ.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def measure() -> None:
    """Predict a launch measurement from files; say why two differ."""
