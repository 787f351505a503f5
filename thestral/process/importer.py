"""From "module:attribute" to an ASGI 3 application, with messages that help."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from thestral.errors import ImportFailedError
from thestral.logging.loggers import error_logger
from thestral.types import ASGIApplication

if TYPE_CHECKING:
    from thestral.config import Config

# Tried in turn when only a module is named.
USUAL_NAMES = ("app", "application", "create_app")
NAMES_SHOWN = 8


def load(
    app: str | Any, app_dir: str = "", factory: bool = False, interface: str = "auto"
) -> ASGIApplication:
    """Import the application and make it ASGI 3.

    Args:
        app: "module:attribute" (attributes may be dotted), "module", or the object itself.
        app_dir: put in front of sys.path; "" is the current directory.
        factory: call the object to get the application.
        interface: "asgi3", "asgi2" or "wsgi"; "auto" tells the first two apart.

    Raises:
        ImportFailedError: with the cause for the user, over several lines if it is in their code.
    """
    if isinstance(app, str):
        sys.path.insert(0, os.path.abspath(app_dir or os.curdir))
        name, colon, attribute = app.partition(":")
        if not name or name.startswith(".") or (colon and not attribute):
            raise ImportFailedError(f'"{app}" is not of the form "module:attribute"')
        module = import_module(name)
        app = find(module, attribute) if colon else find_usual(module)
    app = call_factory(app, factory)
    return as_wsgi(app) if interface == "wsgi" else as_asgi3(app, interface)


def load_application(config: Config) -> ASGIApplication:
    """The application that the options name.

    Raises:
        ImportFailedError: as load().
    """
    return load(config.app, config.app_dir, config.factory, config.interface)


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
    """Path of the Python file, or package, that is named where a module should be; None if none is.

    Args:
        name: "main.py", "src/main.py", "src/main", "src/package".
        app_dir: where it is looked for first; then the current directory.
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
    """Dotted name of a file's module, and the directory that it is imported from: the one that its
    outermost package stands in.
    """
    folder, name = os.path.split(os.path.abspath(file))
    names = [] if name == "__init__.py" else [name.removesuffix(".py")]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, name = os.path.split(folder)
        names.insert(0, name)
    return ".".join(names), folder


def missing_module(name: str, missing: str) -> str:
    from pathlib import Path  # not needed where all is well

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
    import difflib  # not needed where all is well

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
        f'Module "{module.__name__}" has none of {names}; say "{module.__name__}:attribute".'
    )


def call_factory(app: Any, factory: bool) -> Any:
    if not factory:
        if not takes(app, 3) and not takes(app, 1) and takes(app, 0):
            error_logger.warning("The application is a factory; use --factory to say so.")
        else:
            return app
    try:
        return app()
    except (Exception, SystemExit) as exc:
        raise ImportFailedError(in_user_code("The application factory failed", exc)) from exc


def takes(app: Any, count: int) -> bool:
    """Whether `app` may be called with so many positional arguments; True where nobody can tell."""
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
    """A WSGI application behind a2wsgi, which runs it in threads."""
    try:
        from a2wsgi import WSGIMiddleware
    except ImportError:
        raise ImportFailedError(
            "--interface wsgi needs the package a2wsgi: pip install 'thestral[wsgi]'"
        ) from None
    return without_lifespan(WSGIMiddleware(app))


def without_lifespan(app: Any) -> ASGIApplication:
    async def run(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"WSGI knows no scope of type {scope['type']!r}")
        await app(scope, receive, send)

    return run


def as_asgi3(app: Any, interface: str = "auto") -> ASGIApplication:
    """An ASGI 2 application is a callable of the scope alone that gives a callable of receive and
    send.
    """
    if not callable(app):
        raise ImportFailedError(f"{app!r:.100} is not callable, so it is no ASGI application")
    if interface == "asgi3" or (interface == "auto" and takes(app, 3)):
        return app  # type: ignore[no-any-return]
    if interface == "asgi2" or takes(app, 1):
        return functools.partial(run_asgi2, app)
    hint = "; is it WSGI? Then say --interface wsgi" if takes(app, 2) else ""
    raise ImportFailedError(
        f"{app!r:.100} does not take (scope, receive, send), so it is no ASGI application{hint}"
    )


async def run_asgi2(app: Any, scope: Any, receive: Any, send: Any) -> None:
    await app(scope)(receive, send)


def in_user_code(what: str, exc: BaseException) -> str:
    """What went wrong, with the frames below the import machinery: those of the user's code."""
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
