"""The commands `thestral top` and `thestral ctl`, clients of the admin port."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from typing import Any, NoReturn
from urllib.parse import urlencode

import click

from thestral.admin.client import AdminError, ask, read_status
from thestral.admin.rates import frame_of
from thestral.admin.screen import report
from thestral.admin.top import once, style_of_output, watch
from thestral.config.address import USUAL, Address, read_address

# Exit statuses besides 0, and 2 for wrong usage.
REFUSED = 1  # the server has refused, or for `ctl status` is not ready
NO_ANSWER = 3
VARIABLE = "THESTRAL_ADMIN"


class AddressType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return read_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def end(error: AdminError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(NO_ANSWER)


@click.command(
    help="Show a running server live: rates, durations, workers, routes, and the requests that"
    f" have been running for longest. ADDRESS is that of its --admin [default: {USUAL}]."
)
@click.argument("address", type=AddressType(), default=USUAL, envvar=VARIABLE)
@click.option("--once", "is_once", is_flag=True, help="Print one report and exit.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two updates; with --once, the time that the report covers.",
)
def top(address: Address, is_once: bool, interval: float) -> None:
    if is_once:
        try:
            lines = once(address, interval)
        except AdminError as error:
            end(error)
        click.echo("\n".join(lines))
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("stdin and stdout are not a terminal: use --once")
    else:
        watch(address, interval)


CTL_HELP = f"""Inspect a running server, or change it.

\b
status                     its state and workers; exit status 0 if it is ready
reload                     replace the workers one by one, as SIGHUP does
workers +N | -N            more workers, or fewer
log-level LEVEL [LOGGER]   set the level of the log, or of one logger
stacks                     show the stacks of all threads and tasks

ADDRESS is that of its --admin [default: ${VARIABLE}, else {USUAL}]. All but status need a Unix
socket, unix:PATH. The exit status is 0 for success, 1 if the server refuses or is not ready, 2 for
wrong usage, and 3 if there is no answer."""


@click.command(
    help=CTL_HELP,
    options_metavar="[--json]",
    context_settings={"ignore_unknown_options": True},  # for -1
)
@click.option("--json", "as_json", is_flag=True, help="With status: all of it, as JSON.")
@click.argument("words", nargs=-1, required=True, metavar="[ADDRESS] COMMAND [ARGUMENTS]")
def ctl(words: tuple[str, ...], as_json: bool) -> None:
    address, command, arguments = split(words)
    try:
        if command == "status":
            sys.exit(show_status(address, as_json))
        answer = ask(address, "POST", target_of(command, arguments))
    except AdminError as error:
        end(error)
    click.echo(answer.body.rstrip("\n"), err=answer.status >= 400)
    sys.exit(REFUSED if answer.status >= 400 else 0)


COMMANDS = {
    "status": (0, 0),
    "reload": (0, 0),
    "workers": (1, 1),
    "log-level": (1, 2),
    "stacks": (0, 0),
}  # lowest and highest number of arguments


def split(words: tuple[str, ...]) -> tuple[Address, str, tuple[str, ...]]:
    """Split the words of a command line into address, command and arguments.

    Raises:
        click.UsageError: the command is unknown, or the number of its arguments is wrong.
    """
    given = os.environ.get(VARIABLE) or USUAL
    if words[0] not in COMMANDS:
        given, *rest = words
        words = tuple(rest)
    if not words or words[0] not in COMMANDS:
        what = f"There is no command {words[0]!r}" if words else "A command is missing"
        raise click.UsageError(f"{what}: expected one of {', '.join(COMMANDS)}")
    try:
        address = read_address(given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    command, *arguments = words
    least, most = COMMANDS[command]
    if not least <= len(arguments) <= most:
        raise click.UsageError(f"{command!r} cannot have {len(arguments)} arguments: see --help")
    return address, command, tuple(arguments)


def target_of(command: str, arguments: tuple[str, ...]) -> str:
    """The request target of a command.

    Raises:
        click.UsageError: an argument is wrong.
    """
    if command == "workers":
        change = re.fullmatch(r"([+-])(\d+)", arguments[0])
        if change is None:
            raise click.UsageError(f"{arguments[0]!r} given, expected +NUMBER or -NUMBER")
        return f"/workers?{'add' if change[1] == '+' else 'remove'}={change[2]}"
    if command == "log-level":
        return "/log-level?" + urlencode(dict(zip(("level", "logger"), arguments, strict=False)))
    return f"/{command}"


def show_status(address: Address, as_json: bool) -> int:
    """Print the status; return the exit status.

    Raises:
        AdminError: the server does not answer.
    """
    status = read_status(address)
    if as_json:
        click.echo(json.dumps(status, indent=2))
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        lines = report(frame_of(status, None), width, style_of_output(), str(address))
        click.echo("\n".join(lines))
    ready = ask(address, "GET", "/readyz")
    if not as_json:
        click.echo(f"\n{ready.body.rstrip()}")
    return 0 if ready.status == 200 else REFUSED
