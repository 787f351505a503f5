"""Loading an ASGI 3 application by its name, and the errors where that fails."""

from __future__ import annotations

import functools
import sys

import pytest

from thestral.errors import ImportFailedError
from thestral.process.importer import load


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, empty; modules imported from it are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, *lines):
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def reason(app, **settings):
    """Return why the application could not be loaded."""
    with pytest.raises(ImportFailedError) as caught:
        load(app, **settings)
    return str(caught.value)


APP = "async def app(scope, receive, send): pass"


async def answer(scope, receive, send):
    await send({"scope": scope, "message": await receive()})


def run(application):
    """Run an application without an event loop, which it does not need because it never waits."""
    sent = []

    async def receive():
        return "message"

    async def send(message):
        sent.append(message)

    with pytest.raises(StopIteration):
        application({"type": "http"}, receive, send).__await__().send(None)
    return sent


EXPECTED = [{"scope": {"type": "http"}, "message": "message"}]


class Method:
    async def __call__(self, scope, receive, send):
        await answer(scope, receive, send)

    async def method(self, scope, receive, send):
        await answer(scope, receive, send)


async def with_more(extra, scope, receive, send):
    await answer(scope, receive, send)


class TwoStep:
    """An ASGI 2 application as a class: takes the scope when made, receive and send when called."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await answer(self.scope, receive, send)


def two_step(scope):
    return functools.partial(answer, scope)


async def with_defaults(scope, receive=None, send=None):
    await answer(scope, receive, send)


async def with_rest(*arguments):
    await answer(*arguments)


@pytest.mark.parametrize(
    "app",
    [
        answer,
        Method(),
        Method().method,
        functools.partial(with_more, "extra"),
        TwoStep,
        two_step,
        with_defaults,
        with_rest,
    ],
    ids=["function", "object", "method", "partial", "TwoStep", "two_step", "defaults", "rest"],
)
def test_any_asgi_callable_is_run(app):
    assert run(load(app)) == EXPECTED


def test_factory_gives_the_application():
    assert run(load(lambda: answer, factory=True)) == EXPECTED


def test_factory_of_an_asgi_2_application_works_too():
    assert run(load(lambda: TwoStep, factory=True)) == EXPECTED


def test_class_that_is_a_factory_is_instantiated():
    assert run(load(Method, factory=True)) == EXPECTED


@pytest.mark.parametrize("app", [42, None, "nothing", lambda a, b: None, lambda a, b, c, d: None])
def test_object_that_is_no_application_is_refused(app, folder):
    if app == "nothing":
        write(folder, "nothing", "app = 'text'")
    assert "ASGI application" in reason(app)


def test_object_with_a_very_long_repr_is_named_in_one_short_line():
    text = reason(["x" * 10_000])
    assert "\n" not in text
    assert len(text) < 200


# --- Names ----------------------------------------------------------------------------------------


def test_attribute_may_be_dotted(folder):
    write(folder, "dotted_main", "class site:", "    " + APP)
    assert load("dotted_main:site.app").__name__ == "app"


def test_module_may_be_dotted(folder):
    write(folder, "package_one/__init__")
    write(folder, "package_one/main_module", APP)
    assert load("package_one.main_module:app").__module__ == "package_one.main_module"


def test_app_dir_comes_first(folder):
    write(folder, "same_name", "raise RuntimeError('the wrong one')")
    write(folder, "inner/same_name", APP)
    assert callable(load("same_name:app", app_dir="inner"))


@pytest.mark.parametrize("names", [["app", "application"], ["application", "create_app"]])
def test_usual_names_are_tried_in_order(folder, names):
    lines = [APP.replace("app(", f"{name}(") for name in reversed(names)]
    write(folder, "usual_names", *lines)
    assert load("usual_names").__name__ == names[0]


def test_create_app_is_called_without_the_factory_option(folder):
    write(folder, "with_create", APP.replace("app(", "inner("), "def create_app(): return inner")
    assert load("with_create").__name__ == "inner"


def test_module_without_a_usual_name_says_which_were_tried(folder):
    write(folder, "unusual", APP.replace("app(", "api("))
    text = reason("unusual")
    assert text == (
        'Module "unusual" has none of app, application, create_app; name it: "unusual:attribute".'
    )


@pytest.mark.parametrize("name", ["", ":", ":app", "module:"])
def test_name_of_another_form_is_refused(folder, name):
    assert reason(name) == f'"{name}" is not of the form "module:attribute"'


@pytest.mark.parametrize(
    "name", ["..:app", ".main:app", "a..b:app", "main:", "main:.app", "main:a:b"]
)
def test_malformed_name_is_one_line(folder, name):
    write(folder, "main", APP)
    text = reason(name)
    assert "\n" not in text
    assert "Traceback" not in text


def test_missing_module_names_the_nearest_and_the_place(folder):
    write(folder, "mainly", APP)
    write(folder, "other", APP)
    said = 'Could not import module "mianly". Did you mean "mainly"?'
    assert reason("mianly:app") == f"{said} (looked in {folder}; use --app-dir)"


def test_missing_package_is_near_a_package(folder):
    write(folder, "website/__init__")
    assert 'Did you mean "website"?' in reason("webiste:app")


def test_missing_module_in_a_package_names_the_nearest_there(folder):
    write(folder, "package_two/__init__")
    write(folder, "package_two/service", APP)
    text = reason("package_two.sevrice:app")
    assert text.startswith('Could not import module "package_two.sevrice".')
    assert "service" in text.partition("Did you mean")[2]


def test_missing_module_far_from_all_has_no_suggestion(folder):
    write(folder, "mainly", APP)
    text = reason("zzz:app")
    assert text == f'Could not import module "zzz". (looked in {folder}; use --app-dir)'


def test_missing_attribute_names_the_nearest_and_what_there_is(folder):
    write(folder, "has_two", APP, APP.replace("app(", "api("))
    text = reason("has_two:aap")
    assert text == (
        'Attribute "aap" not found in module "has_two". Did you mean "app"? It has: api, app.'
    )


def test_missing_attribute_of_an_empty_module(folder):
    write(folder, "has_none")
    assert reason("has_none:app") == 'Attribute "app" not found in module "has_none".'


def test_missing_dotted_attribute_suggests_from_where_it_is_missing(folder):
    write(folder, "has_site", "class Site:", "    " + APP, "site = Site()")
    text = reason("has_site:site.ap")
    assert 'Attribute "site.ap" not found' in text
    assert 'Did you mean "' not in text or "app" in text.partition("Did you mean")[2]


# --- Errors in the user's code --------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["raise RuntimeError('mine')", "raise SystemExit(4)", "import no_1"]
)
def test_frames_shown_are_the_users(folder, line):
    path = write(folder, "raises_here", "pass", line)
    text = reason("raises_here:app")
    assert text.startswith('Could not import "raises_here":\nTraceback')
    assert text.count('File "') == 1
    assert f'File "{path}", line 2' in text


def test_syntax_error_shows_the_line_alone(folder):
    path = write(folder, "bad_syntax", "app = None", "def f(:")
    text = reason("bad_syntax:app")
    assert text.count('File "') == 1
    assert f'File "{path}", line 2' in text
    assert "def f(:" in text
    assert text.endswith("SyntaxError: invalid syntax")


def test_importlib_in_the_users_path_is_the_users(folder):
    # A directory with "importlib" in its name must not hide the user's frames.
    path = write(folder, "my_importlib_app/broken_there", "raise RuntimeError('mine')")
    text = reason("broken_there:app", app_dir="my_importlib_app")
    assert f'File "{path}", line 1' in text


def test_missing_module_of_the_same_prefix_is_the_users_fault(folder):
    # "outer_pkg" exists; the missing module is one that it imports.
    write(folder, "outer_pkg/__init__", "import outer_pkg_missing")
    write(folder, "outer_pkg/main", APP)
    text = reason("outer_pkg.main:app")
    assert "outer_pkg/__init__.py" in text
    assert "outer_pkg_missing" in text


def test_factory_that_raises_shows_its_own_frames(folder):
    path = write(folder, "fails_to_make", "def make():", "    raise RuntimeError('no database')")
    text = reason("fails_to_make:make", factory=True)
    assert text.startswith("The application factory failed:\n")
    assert text.count('File "') == 1
    assert f'File "{path}", line 2, in make' in text
    assert text.endswith("RuntimeError: no database")


def test_factory_that_exits_is_a_failure(folder):
    write(folder, "exits", "import sys", "def make():", "    sys.exit('no configuration')")
    assert "no configuration" in reason("exits:make", factory=True)


def test_factory_that_needs_arguments_is_a_failure():
    assert "factory" in reason(lambda a, b: None, factory=True)


def test_interrupt_during_an_import_is_not_swallowed(folder):
    write(folder, "interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("interrupted:app")
