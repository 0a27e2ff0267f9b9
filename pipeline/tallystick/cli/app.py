"""``tally``: the table of commands, loaded one at a time, and where errors become exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from tallystick import __version__
from tallystick.core.errors import Exit, TallystickError, Unreachable

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter  # typer carries its own copy of click

_INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C

# name -> (module under tallystick.cli, one line for --help). The module's ``app`` is a typer.Typer.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Run the whole story on this machine, with embedded defaults."),
    "init": ("init", "Write a trust file, an embedded Sigstore, and empty channels."),
    "build": ("build", "Build an image with Nix, twice, with its SBOM, provenance and measurements."),
    "seeds": ("seeds", "Update, fetch or bundle the pinned inputs of a build."),
    "rebuild": ("rebuild", "Rebuild a release independently and sign a link, or report what differs."),
    "sbom": ("sbom", "Show or check the SBOM of a release; export or merge SBOMs."),
    "provenance": ("provenance", "Show or check the provenance of a release; vouch for a commit."),
    "measure": ("measure", "Predict a launch measurement from files; say why two differ."),
    "sign": ("sign", "Sign a release's statements."),
    "keys": ("keys", "Show how private keys are kept; encrypt them; use one in a hardware token."),
    "sigstore": ("sigstore", "Serve the embedded Sigstore to other people's clients."),
    "witness": ("witness", "Be a witness of transparency logs."),
    "verify": ("verify", "Verify a release, or any Sigstore bundle, offline."),
    "resident": ("resident", "Keep a process ready that runs `tally verify` without loading anything."),
    "model": ("model", "Sign a model, or verify its signature (OpenSSF Model Signing)."),
    "vulns": ("vulns", "Say which known vulnerabilities are in a release, and what hangs on them."),
    "artifact": ("artifact", "Encrypt weights and other artifacts, and release them apart from the image."),
    "push": ("push", "Push a release into a container registry."),
    "pull": ("pull", "Pull a release out of a container registry."),
    "promote": ("promote", "Propose a release or a compiled policy for a channel."),
    "approve": ("approve", "Approve what is proposed for a channel."),
    "revoke": ("revoke", "Take releases out of a channel: one, or all with a component or vulnerability."),
    "channel": ("channel", "Show a channel."),
    "diff": ("diff", "Say how two releases differ."),
    "trace": ("trace", "Walk from any digest back to its source."),
    "compile": ("compile", "Compile a policy for key brokers, and prove that it admits nothing else."),
    "policy": ("policy", "Check or compare policies."),
    "prove": ("prove", "Prove that a compiled policy admits the released tuples and nothing else."),
    "audit": ("audit", "Say what is permissive about a policy that nobody compiled here."),
    "corim": ("corim", "Sign the Reference Values that a policy was compiled to, or show some."),
    "evidence": ("evidence", "Verify or show attestation evidence."),
    "appraise": ("appraise", "Decide whether verified evidence is acceptable under a policy."),
    "broker": ("broker", "Run and manage the key broker."),
    "attest": ("attest", "In a guest: collect evidence, ask for a key, unwrap it."),
    "explain": ("explain", "Say why a decision was what it was."),
    "whatif": ("whatif", "Replay recorded evidence against a new policy."),
    "forecast": ("forecast", "Say what expires when, and which workloads stop then."),
    "report": ("report", "Write the pages that people read."),
}


class _Lazy(TyperGroup):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, line = COMMANDS[cmd_name]
        command = typer.main.get_command(importlib.import_module(f"tallystick.cli.{module}").app)
        command.name = cmd_name
        command.help = command.help or line
        return command

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


app = typer.Typer(
    cls=_Lazy,
    name="tally",
    help="Keys leave only when the signed build and the attested machine tally.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"tally {__version__}\n")
        raise typer.Exit


@app.callback()
def tally(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_print_version, is_eager=True
    ),
    passphrase_fd: int | None = typer.Option(
        None,
        "--passphrase-fd",
        help="File descriptor with the passphrase or PIN of encrypted and hardware keys.",
    ),
    passphrase_env: str | None = typer.Option(
        None, "--passphrase-env", help="Name of the environment variable with it."
    ),
) -> None:
    """Keys leave only when the signed build and the attested machine tally."""
    from tallystick.cli import passphrase

    passphrase.choose(passphrase_fd, passphrase_env)


def run(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the code that the contract names for what happened."""
    arguments = sys.argv[1:] if argv is None else argv
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    from tallystick.cli.output import emit_error

    as_json = "--json" in arguments
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="tally", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(Exit.OK)
    except TallystickError as error:
        emit_error(error, as_json=as_json)
        return int(error.exit)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.UNREACHABLE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            return _bug(error, as_json=as_json)
        emit_error(Unreachable(f"{error.filename}: {error.strerror}", code="system.refused"), as_json=as_json)
        return int(Exit.UNREACHABLE)
    except Exception as error:
        return _bug(error, as_json=as_json)
    return int(code or Exit.OK)


def _bug(error: Exception, *, as_json: bool) -> int:
    """Say that this is ours; the traceback only for who asks, since its values may be secret."""
    from tallystick.cli.output import emit_error

    if os.environ.get("TALLY_DEBUG"):
        raise error
    kind = type(error).__name__
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_globals.get('__name__')}:{where.tb_lineno}" if where else "unknown"
    message = f"a bug of ours ({kind} at {place}); run again with TALLY_DEBUG=1 and report what it prints"
    emit_error(TallystickError(message, code="bug"), as_json=as_json)
    return int(Exit.BUG)
