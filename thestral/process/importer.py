"""Imports "module:attribute" as an ASGI 3 application, with errors that say how to correct it."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from thestral.errors import ImportFailedError
from thestral.logging.loggers import error_logger
from thestral.types import ASGIApplication

if TYPE_CHECKING:
    from thestral.config import Config

# Attributes to try in turn if only a module is named.
USUAL_NAMES = ("app", "application", "create_app")
NAMES_SHOWN = 8  # attributes of a module that an error lists at most


def load(
    app: str | Any, app_dir: str = "", factory: bool = False, interface: str = "auto"
) -> ASGIApplication:
    """Import an application and adapt it to ASGI 3.

    Args:
        app: "module:attribute" (attributes may be dotted), "module", or the object itself.
        app_dir: directory to put in front of sys.path; "" is the current directory.
        factory: whether to call the object to get the application.
        interface: "asgi3", "asgi2" or "wsgi"; "auto" detects the first two.

    Raises:
        ImportFailedError: the application cannot be imported; the message is for the user, and has
            a traceback if the fault is in the application's code.
    """
    if isinstance(app, str):
        look_in(app_dir)
        name, colon, attribute = app.partition(":")
        if not name or name.startswith(".") or (colon and not attribute):
            raise ImportFailedError(f'"{app}" is not of the form "module:attribute"')
        module = import_module(name)
        app = find(module, attribute) if colon else find_usual(module)
    app = call_factory(app, factory)
    return as_wsgi(app) if interface == "wsgi" else as_asgi3(app, interface)


def load_application(config: Config) -> ASGIApplication:
    """Import the application that the options name.

    Raises:
        AccelerateError: see accelerate().
        ImportFailedError: as in load().
    """
    accelerate(config)
    return load(config.app, config.app_dir, config.factory, config.interface)


def accelerate(config: Config) -> None:
    """Replace what the option names before the application is imported.

    Raises:
        AccelerateError: it is required, and does not fit what is installed.
    """
    for value in config.accelerate:
        from thestral.accelerate.groups import read, turn_on  # most servers do without

        turn_on(*read(value))


def load_function(name: str | None, app_dir: str = "") -> Callable[..., Any] | None:
    """Import the function that an option names as "module:function"; None if it is not set.

    Raises:
        ImportFailedError: it cannot be imported, or called.
    """
    if name is None:
        return None
    look_in(app_dir)
    module, _, attribute = name.partition(":")
    function = find(import_module(module), attribute)
    if not callable(function):
        raise ImportFailedError(f'"{name}" is not callable')
    return function  # type: ignore[no-any-return]


def look_in(app_dir: str) -> None:
    """Have modules imported from a directory first; "" is the current directory."""
    directory = os.path.abspath(app_dir or os.curdir)
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise ImportFailedError(in_user_code(f'Could not import "{name}"', exc)) from exc
        raise ImportFailedError(missing_module(name, exc.name)) from exc
    except (Exception, SystemExit) as exc:
        raise ImportFailedError(in_user_code(f'Could not import "{name}"', exc)) from exc


def file_of(name: str, app_dir: str = "") -> str | None:
    """Path of the Python file, or of a package's __init__.py, that a user has given instead of a
    module; None if `name` is not the path of one.

    Args:
        name: "main.py", "src/main.py", "src/main", "src/package".
        app_dir: directory to search first, before the current directory.
    """
    if not name.endswith(".py") and os.sep not in name:
        return None
    for folder in (app_dir or os.curdir, os.curdir):
        path = os.path.normpath(os.path.join(folder, name))
        for file in (path, f"{path}.py", os.path.join(path, "__init__.py")):
            if file.endswith(".py") and os.path.isfile(file):
                return file
    return None


def module_of(file: str) -> tuple[str, str]:
    """Dotted name of a file's module, and the directory to import it from, which contains its
    outermost package.
    """
    folder, name = os.path.split(os.path.abspath(file))
    names = [] if name == "__init__.py" else [name.removesuffix(".py")]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, name = os.path.split(folder)
        names.insert(0, name)
    return ".".join(names), folder


def missing_module(name: str, missing: str) -> str:
    from pathlib import Path  # only errors need it

    directory = sys.path[0]
    folder = Path(directory, *missing.split(".")[:-1])
    found = [path.stem for path in folder.glob("*.py")] if folder.is_dir() else []
    if folder.is_dir():
        found += [path.name for path in folder.iterdir() if (path / "__init__.py").is_file()]
    hint = did_you_mean(missing.split(".")[-1], found)
    where = f"(looked in {directory}; use --app-dir)"
    if name.endswith(".py"):
        return f'Could not import module "{name}". Name it without ".py", as in "main:app".'
    return f'Could not import module "{missing}".{hint} {where}'


def did_you_mean(name: str, known: list[str]) -> str:
    import difflib  # only errors need it

    nearest = difflib.get_close_matches(name, known, n=1)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""


def find(module: ModuleType, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise ImportFailedError(missing_attribute(module, attribute, part)) from exc
    return found


def missing_attribute(module: ModuleType, attribute: str, part: str) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and not inspect.isclass(value)
        and getattr(value, "__module__", module.__name__) not in sys.builtin_module_names
    ]
    hint = did_you_mean(part, own)
    has = f" It has: {', '.join(sorted(own)[:NAMES_SHOWN])}." if own else ""
    return f'Attribute "{attribute}" not found in module "{module.__name__}".{hint}{has}'


def find_usual(module: ModuleType) -> Any:
    for name in USUAL_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    names = ", ".join(USUAL_NAMES)
    raise ImportFailedError(
        f'Module "{module.__name__}" has none of {names}; name it: "{module.__name__}:attribute".'
    )


def call_factory(app: Any, factory: bool) -> Any:
    if not factory:
        if not takes(app, 3) and not takes(app, 1) and takes(app, 0):
            error_logger.warning(
                "The application looks like a factory, and is called: use --factory."
            )
        else:
            return app
    try:
        return app()
    except (Exception, SystemExit) as exc:
        raise ImportFailedError(in_user_code("The application factory failed", exc)) from exc


def takes(app: Any, count: int) -> bool:
    """Whether `app` can be called with `count` positional arguments. A callable without a signature
    is taken to be ASGI 3, with three.
    """
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return callable(app) and count == 3
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def as_wsgi(app: Any) -> ASGIApplication:
    """Wrap a WSGI application in a2wsgi, which runs it in threads."""
    try:
        from a2wsgi import WSGIMiddleware
    except ImportError:
        raise ImportFailedError(
            "--interface wsgi needs the a2wsgi package: pip install 'thestral[wsgi]'"
        ) from None
    return without_lifespan(WSGIMiddleware(app))


def without_lifespan(app: Any) -> ASGIApplication:
    async def run(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"WSGI does not support scopes of type {scope['type']!r}")
        await app(scope, receive, send)

    return run


def as_asgi3(app: Any, interface: str = "auto") -> ASGIApplication:
    """Adapt an ASGI 2 application, which takes the scope alone and returns a callable that takes
    receive and send; return an ASGI 3 application unchanged.

    Raises:
        ImportFailedError: it is neither.
    """
    if not callable(app):
        raise ImportFailedError(f"{app!r:.100} is not callable, so it is not an ASGI application")
    if interface == "asgi3" or (interface == "auto" and takes(app, 3)):
        return app  # type: ignore[no-any-return]
    if interface == "asgi2" or takes(app, 1):
        return functools.partial(run_asgi2, app)
    hint = "; if it is WSGI, add --interface wsgi" if takes(app, 2) else ""
    raise ImportFailedError(
        f"{app!r:.100} does not take (scope, receive, send), so it is not an ASGI application{hint}"
    )


async def run_asgi2(app: Any, scope: Any, receive: Any, send: Any) -> None:
    await app(scope)(receive, send)


def in_user_code(what: str, exc: BaseException) -> str:
    """A description of a failure, with the part of its traceback that is in the user's code, below
    the import machinery.
    """
    shown = exc.with_traceback(first_user_frame(exc.__traceback__))
    return f"{what}:\n" + "".join(traceback.format_exception(shown)).rstrip()


def first_user_frame(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        machinery = file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")
        if not machinery:
            return trace
        trace = trace.tb_next
    return None
