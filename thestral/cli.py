"""The command line, generated from the options of Config."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import platform
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from thestral import __version__
from thestral._csrc import ffi, lib
from thestral.config import Config, default_of, options
from thestral.config.environment import load_environment
from thestral.config.files import read_settings
from thestral.config.option import Option
from thestral.errors import ConfigError, Terminated, ThestralError
from thestral.logging.jsonlines import JsonFormatter
from thestral.logging.loggers import error_logger
from thestral.process import init
from thestral.process.importer import USUAL_NAMES, file_of, module_of
from thestral.process.leaving import exit_in_time, flush_output
from thestral.process.server import Server
from thestral.run import end, server_for

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from thestral.process.supervisor import Supervisor

# Keys in a click context's meta: whether the command is `check`, the settings file, and the
# arguments.
CHECK = "thestral.check"
FILE = "thestral.file"
ARGUMENTS = "thestral.arguments"
ASSIGNED = re.compile(rf"^(?:async def |def |)({'|'.join(USUAL_NAMES)})\b(?! *\.)", re.MULTILINE)
EXAMPLES = """\
Examples:
  thestral main:app                  serve "app" from main.py on port 8000
  thestral main:app --reload         restart when a file changes
  thestral main:app --workers auto   use all processors
  thestral check main:app            show what would be served, and how
  thestral top                       watch a server that has --admin
  thestral --help                    list all options"""
# Options that can be repeated in uvicorn too; uvicorn takes one value for thestral's other lists.
SEVERAL_UNDER_UVICORN = ("headers", "reload_dirs", "reload_includes", "reload_excludes")
# Commands of FastAPI's command line, with the options that make thestral do the same.
FOREIGN_COMMANDS = {"run": [], "dev": ["--reload"]}
INTERRUPTED = 130  # 128 + SIGINT: exit status if Ctrl-C comes before the server handles it


class ServeCommand(click.Command):
    """Serves an application, or with `check` before its name only checks it. --help groups the
    options as Config does.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *rest: Any,
        **settings: Any,
    ) -> Any:
        """Run the command, or `top` or `ctl` if the first argument is that."""
        given = list(sys.argv[1:] if args is None else args)
        if given[:1] not in (["top"], ["ctl"]):
            return super().main(args, prog_name, *rest, **settings)
        from thestral.admin import commands  # a server does not need it

        name, *own = given
        command: click.Command = getattr(commands, name)
        return command.main(own, f"{prog_name or 'thestral'} {name}", *rest, **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[CHECK] = args[:1] == ["check"]
        ctx.meta[ARGUMENTS] = list(args)
        own = args[1:] if ctx.meta[CHECK] else args
        if not ctx.resilient_parsing and not FOREIGN_COMMANDS.keys().isdisjoint(own):
            values, rest, _ = self.make_parser(ctx).parse_args(args=list(own))
            if values.get("app") in FOREIGN_COMMANDS and rest:
                refuse_command(ctx, values["app"], rest[0], values.get("app_dir"))
        return super().parse_args(ctx, own)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        headings = {name: spec.group for name, spec in options()}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = headings.get(parameter.name or "", "Other")
                groups.setdefault(heading, []).append(record)
        groups["Other"] = groups.pop("Other")  # last
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class AsGiven(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Takes any value: Config checks it, by the same rules for the command line, the environment
    and files.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value


class PathAsGiven(AsGiven):
    """Has shells complete file names."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return click.Path().shell_complete(ctx, param, incomplete)


class ChoiceAsGiven(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """Has shells complete the choices."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value


class SwitchAsGiven(click.types.BoolParamType):
    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value


class ListOption(click.Option):
    """A repeatable option. thestral's environment variable has one value on each line; uvicorn's
    has values separated as in uvicorn, by blanks, or directories as in $PATH.
    """

    def value_from_envvar(self, ctx: click.Context) -> list[str] | None:
        text = self.resolve_envvar_value(ctx)
        if text is None:
            return None
        own, _ = environment_of(self.name or "")
        if os.environ.get(own) or self.name not in SEVERAL_UNDER_UVICORN:
            return [line for line in text.splitlines() if line.strip()]
        return text.split(os.pathsep if isinstance(self.type, PathAsGiven) else None)


def version_text() -> str:
    """One line for bug reports: the versions of thestral, Python and llhttp, and the system."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    llhttp = ffi.string(lib.th_llhttp_version()).decode()
    return f"thestral {__version__} with {python} and llhttp {llhttp} on {platform.system()}"


def print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(version_text())
        ctx.exit()


def load_env_file(ctx: click.Context, parameter: click.Parameter, path: str | None) -> None:
    if path is not None and not ctx.resilient_parsing:
        try:
            load_environment(path)
        except ConfigError as error:
            refuse(error)


def load_settings(ctx: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Read a settings file, whose values override the defaults and yield to the environment."""
    if ctx.resilient_parsing:
        return
    try:
        ctx.default_map, ctx.meta[FILE] = read_settings(path)
    except ConfigError as error:
        refuse(error)


def environment_of(name: str) -> list[str]:
    """Environment variables of an option: thestral's, then uvicorn's as the fallback."""
    return [f"THESTRAL_{name.upper()}", f"UVICORN_{name.upper()}"]


def make_option(name: str, spec: Option) -> click.Option:
    flag = "--" + (spec.flag or name).replace("_", "-")
    default = default_of(name)
    settings: dict[str, Any] = {
        "help": f"{spec.help}  [env: {environment_of(name)[0]}]",
        "envvar": environment_of(name),
        "default": default,
        "show_default": default not in (None, "", []),
    }
    if spec.kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], type=SwitchAsGiven(), **settings)
    if spec.kind is list:
        settings |= {"metavar": spec.item, "type": type_of(spec), "multiple": True}
        return ListOption([flag, name], **settings)
    metavar = spec.item or spec.unit.upper()
    if spec.words:
        metavar = "|".join([*spec.words, "INTEGER"])
    return click.Option([flag, name], metavar=metavar or None, type=type_of(spec), **settings)


def type_of(spec: Option) -> click.ParamType[Any]:
    """The click type of an option, for the name of its values in --help and for completion."""
    if spec.choices:
        return ChoiceAsGiven(spec.choices)
    if spec.item == "PATH":
        return PathAsGiven("text")
    return AsGiven({int: "integer", float: "float"}.get(spec.kind, "text"))


def complete_app(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete "module:attribute" with the applications in the working directory."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in applications() if name.startswith(incomplete)]


def applications() -> list[str]:
    """Applications, as "module:attribute", that the working directory's modules define under one of
    USUAL_NAMES.
    """
    from pathlib import Path  # only completion and errors need it

    files = sorted(str(path) for path in Path().glob("*.py"))
    return [f"{file.removesuffix('.py')}:{name}" for file in files for name in names_in(file)]


def names_in(file: str) -> list[str]:
    """Those of USUAL_NAMES that a Python file defines."""
    try:
        with open(file, encoding="utf-8") as source:
            return list(dict.fromkeys(ASSIGNED.findall(source.read())))
    except (OSError, UnicodeDecodeError):
        return []


# --- Arguments of other programs, and what to type instead --------------------------------------


def refuse_command(
    ctx: click.Context, word: str, app: str | None = None, app_dir: str | None = None
) -> NoReturn:
    """Refuse a command such as `run main.py`, and say what to type instead."""
    arguments = [argument for argument in ctx.meta[ARGUMENTS] if argument != word]
    if app is None:
        app = next(iter(applications()), "main:app")
        arguments.insert(int(ctx.meta[CHECK]), app)
    named = as_named(app, app_dir or "") or [app]
    added = [option for option in FOREIGN_COMMANDS[word] if option not in arguments]
    raise click.UsageError(
        f"There is no command '{word}'. Type: {command_with(ctx, arguments, app, named + added)}",
        ctx,
    )


def refuse_file(ctx: click.Context, app: str, named: list[str]) -> NoReturn:
    """Refuse a file name such as `main.py`, and say what to type instead."""
    arguments = ctx.meta[ARGUMENTS]
    if app in arguments:
        advice = f"Type: {command_with(ctx, arguments, app, named)}"
    else:  # the name is from the environment or a settings file
        advice = f"Use this instead: {joined(named)}"
    raise click.UsageError(f"'{app}' is a path, not a module. {advice}", ctx)


def command_with(ctx: click.Context, arguments: list[str], app: str, named: list[str]) -> str:
    """The command line with another name for the application.

    Args:
        ctx: of the command.
        arguments: the arguments of the command line.
        app: the argument to replace.
        named: the new name, and the options that it needs. Options go to the end, where they
            override earlier ones.
    """
    at = arguments.index(app)
    name, *options = named
    return f"{ctx.command_path} {joined([*arguments[:at], name, *arguments[at + 1 :], *options])}"


def joined(arguments: list[str]) -> str:
    """Arguments, quoted for a shell."""
    import shlex  # only errors need it

    return shlex.join(arguments)


def as_named(app: str, app_dir: str) -> list[str] | None:
    """The arguments that name the application in a file; None if `app` does not name a file.

    Args:
        app: "main.py", "src/main.py:app" and the like.
        app_dir: value of --app-dir.
    """
    path, _, attribute = app.partition(":")
    file = file_of(path, app_dir)
    if file is None:
        return None
    module, folder = module_of(file)
    found = names_in(file)
    attribute = attribute or next((name for name in USUAL_NAMES if name in found), "NAME")
    named = [f"{module}:{attribute}"]
    if folder != os.path.abspath(app_dir or os.curdir):
        named += ["--app-dir", os.path.relpath(folder)]
    if attribute == "create_app":
        named.append("--factory")
    return named


def make_command() -> click.Command:
    parameters: list[click.Parameter] = [
        click.Argument(
            ["app"],
            required=False,
            envvar=["THESTRAL_APP", "UVICORN_APP"],
            shell_complete=complete_app,
        )
    ]
    parameters += [make_option(name, spec) for name, spec in options()]
    parameters += [
        # Eager, because they must be processed before other options take values from these files.
        click.Option(
            ["--env-file"],
            is_eager=True,
            expose_value=False,
            callback=load_env_file,
            metavar="PATH",
            envvar=environment_of("env_file"),
            help="File of environment variables to set (needs the python-dotenv package).",
        ),
        click.Option(
            ["--config"],
            is_eager=True,
            expose_value=False,
            callback=load_settings,
            metavar="PATH",
            envvar="THESTRAL_CONFIG",
            help="TOML file of options [default: thestral.toml, or [tool.thestral] in"
            " pyproject.toml].",
        ),
    ]
    parameters.append(
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=print_version,
            help="Show the version and exit.",
        )
    )
    return ServeCommand(
        "thestral",
        params=parameters,
        callback=serve,
        help='Serve an ASGI application, given as "module:attribute". "thestral check APP" imports'
        " it, runs its lifespan, shows each option and where its value comes from, and exits.",
        epilog="\b\n" + EXAMPLES,
        context_settings={"max_content_width": 100},
    )


def open_standard_descriptors() -> None:
    """Open /dev/null as stdin, stdout or stderr if the process was started without it.

    Else a socket would get the descriptor's number: output would go to a client, and libuv aborts
    the process when it closes such a descriptor.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)


def serve(app: str | None, **values: Any) -> None:
    open_standard_descriptors()
    atexit.register(flush_output)
    if app is None:
        click.echo(f"{click.get_current_context().get_usage()}\n\n{EXAMPLES}", err=True)
        sys.exit(ConfigError.exit_status)
    context = click.get_current_context()
    if app in FOREIGN_COMMANDS and not is_module(app, values["app_dir"]):
        refuse_command(context, app)
    named = as_named(app, values["app_dir"])
    if named is not None:
        refuse_file(context, app, named)
    checking = context.meta[CHECK]
    if not checking:
        init.leave_first_process()
    server: Server | Supervisor | None = None
    with contextlib.ExitStack() as ending:
        try:
            config = Config(app, **values)
            config.sources = sources_of(context)
            if checking:
                show(config)
                checked = Server(config).check()
                if config.accelerate:
                    from thestral.accelerate.report import report

                    click.echo("\n".join(report(checked)))
                click.echo("The application starts and stops.")
                return
            server = server_for(config)
            ending.enter_context(exit_in_time(server))
            server.run()
        except ConfigError as error:
            refuse(error)
        except ThestralError as error:
            end(error, server)
        except Terminated:
            sys.exit(0)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def is_module(name: str, app_dir: str) -> bool:
    """Whether a top-level module of that name can be imported."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec(name, [os.path.abspath(app_dir or os.curdir), *sys.path])
    return spec is not None and spec.origin is not None  # None: without __init__.py


def show(config: Config) -> None:
    """Print each option with its value and where the value comes from."""
    click.echo(f"app = {config.app!r}")
    for name, spec in options():
        value = getattr(config, name)
        if spec.secret and value is not None:
            value = "***"
        click.echo(f"{name} = {value!r}  ({config.sources[name]})")


def sources_of(context: click.Context) -> dict[str, str]:
    """Where the value of each option comes from."""
    words: dict[ParameterSource | None, str] = {
        ParameterSource.COMMANDLINE: "command line",
        ParameterSource.ENVIRONMENT: "environment",
        ParameterSource.DEFAULT_MAP: context.meta[FILE],
    }
    return {name: words.get(context.get_parameter_source(name), "default") for name, _ in options()}


def refuse(error: ConfigError) -> NoReturn:
    """End the command with one line that names the flag, as click does for errors that it finds
    itself, and with the same exit status (ConfigError.exit_status).
    """
    flags = {name: spec.flag or name for name, spec in options()}
    flag = "--" + flags.get(error.option, error.option).replace("_", "-")
    text = f"Invalid value for '{flag}': {error.reason}"
    context = click.get_current_context()
    if context.params.get("log_format") == "json" and not context.meta.get(CHECK):
        made = error_logger.makeRecord(error_logger.name, logging.ERROR, "", 0, text, (), None)
        click.echo(JsonFormatter().format(made), err=True)
        context.exit(error.exit_status)
    raise click.UsageError(text) from error


main = make_command()
