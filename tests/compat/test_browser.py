"""A real browser: Chromium."""

import asyncio
import hashlib
import itertools
import json

import pytest
from chromium import LOADED, Browser
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from support import program, wait_until

# Defined in the page for the tests: a WebSocket whose events can be awaited one by one.
PAGE = """<!doctype html><title>thestral</title><script>
function open(path, protocols) {
  const ws = new WebSocket(new URL(path, location).href.replace("http", "ws"), protocols ?? []);
  const arrived = [], waiting = [];
  const put = (event) => waiting.length ? waiting.shift()(event) : arrived.push(event);
  for (const kind of ["open", "message", "error", "close"]) ws.addEventListener(kind, put);
  ws.next = () =>
    new Promise((done) => arrived.length ? done(arrived.shift()) : waiting.push(done));
  return ws;
}
const ended = (event) => [event.type, event.code, event.reason, event.wasClean];
</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(program("Chromium"), tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


class Site:
    """The page, and the application that it talks to."""

    def __init__(self) -> None:
        self.versions: set[tuple[str, str]] = set()  # types of scopes, and their HTTP versions
        self.ends: list[tuple[int, str]] = []
        self.streams_ended = 0
        self.uploading: list[int] = []  # sizes of the parts of uploads that have come
        self.uploads_broken = 0
        self.heard: asyncio.Queue[None] = asyncio.Queue()
        self.gathered: list[Request] = []
        self.complete = asyncio.Event()
        self.routes = Starlette(
            routes=[
                Route("/", self.page),
                Route("/echo", self.post, methods=["POST"]),
                Route("/numbers", self.numbers),
                Route("/events", self.events),
                Route("/broken", self.broken),
                Route("/heard", self.hear),
                Route("/ticks", self.ticks),
                Route("/together", self.together),
                Route("/upload", self.upload, methods=["POST"]),
                Route("/refuse", self.refuse, methods=["POST"]),
                WebSocketRoute("/ws", self.echo),
                WebSocketRoute("/close", self.close),
                WebSocketRoute("/fail", self.fail),
                WebSocketRoute("/deny", self.deny),
            ]
        )

    async def app(self, scope, receive, send):
        if scope["type"] != "lifespan":
            self.versions.add((scope["type"], scope["http_version"]))
        await self.routes(scope, receive, send)

    async def page(self, request: Request):
        response = HTMLResponse(PAGE)
        response.set_cookie("who", "luna")
        return response

    async def post(self, request: Request):
        return Response(await request.body(), media_type=request.headers["content-type"])

    async def numbers(self, request: Request):
        async def parts():
            for number in range(1000):
                yield f"{number}\n"
                await asyncio.sleep(0)

        return StreamingResponse(parts(), media_type="text/plain")

    async def events(self, request: Request):
        last = int(request.headers.get("last-event-id", "0"))

        async def parts():
            try:
                yield "retry: 1\n\n"
                for number in range(last + 1, last + 4):
                    yield f"id: {number}\ndata: {number}\ndata: ü\n\n"
                while last:  # Starlette notices at a yield that the client has left
                    yield ": still here\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self.streams_ended += 1

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def broken(self, request: Request):
        """Send two events, and break off the stream once the page has them: Chromium may discard
        data that arrives just before a reset of HTTP/2.
        """
        last = int(request.headers.get("last-event-id", "0"))

        async def parts():
            yield "retry: 1\n\n"
            for number in range(last + 1, last + 3):
                yield f"id: {number}\ndata: {number}\n\n"
            await self.heard.get()
            raise RuntimeError("on purpose")

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def hear(self, request: Request):
        self.heard.put_nowait(None)
        return Response()

    async def ticks(self, request: Request):
        """Events without end."""

        async def parts():
            try:
                for number in itertools.count():
                    yield f"data: {number}\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self.streams_ended += 1

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def together(self, request: Request):
        """Answer once thirty requests have come."""
        self.gathered.append(request)
        if len(self.gathered) == 30:
            self.complete.set()
        await self.complete.wait()
        return Response(request.url.query)

    async def upload(self, request: Request):
        """Answer with each field of a form, or with the size of any other body."""
        if request.headers["content-type"].startswith("multipart/form-data"):
            async with request.form() as form:
                file = form["file"]
                digest = hashlib.sha256(await file.read()).hexdigest()
                told = {"name": file.filename, "size": file.size, "sha256": digest}
                return JSONResponse({**told, "text": form["text"]})
        try:
            async for part in request.stream():
                self.uploading.append(len(part))
        except ClientDisconnect:
            self.uploads_broken += 1
        return JSONResponse({"size": sum(self.uploading)})

    async def refuse(self, request: Request):
        return Response("too large", status_code=413)

    async def echo(self, websocket: WebSocket):
        offered = websocket.scope["subprotocols"]
        await websocket.accept("chosen" if "chosen" in offered else None)
        await websocket.send_json([offered, websocket.cookies, websocket.headers["origin"]])
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**message, "type": "websocket.send"})
        self.ends.append((message["code"], message["reason"]))

    async def close(self, websocket: WebSocket):
        await websocket.accept()
        await websocket.close(int(websocket.query_params["code"]), "ü" * 61)

    async def fail(self, websocket: WebSocket):
        await websocket.accept()
        raise RuntimeError("on purpose")

    async def deny(self, websocket: WebSocket):
        await websocket.send_denial_response(JSONResponse({"why": "token"}, status_code=401))


@pytest.fixture
def site():
    return Site()


@pytest.fixture(params=["1.1", "2"])
def visit(request, serve, site, browser, certificate):
    """Function (**options) that returns the running server and a page of it in the browser; over
    HTTP/1.1, and over HTTP/2, which browsers speak only over TLS.
    """
    pages = []

    def open_page(**options):
        tls = certificate.options if request.param == "2" else {}
        # The browser holds idle connections open; the server would wait a moment for them.
        running = serve(site.app, timeout_graceful_shutdown=0.1, **tls, **options)
        if tls:
            running.url = f"https://127.0.0.1:{running.port}"
        pages.append(browser.open(running.url))
        return running, pages[-1]

    yield open_page
    for page in pages:
        page.close()
        browser.devtools.send("Target.closeTarget", targetId=page.target)
    assert {version for _, version in site.versions} == {request.param}


# For things that browsers do only over HTTP/2, or that HTTP/1.1's six connections do not allow.
over_http2 = pytest.mark.parametrize("visit", ["2"], indirect=True)


def test_echo_of_every_kind(visit, site):
    running, page = visit()
    hello = json.dumps([[], {"who": "luna"}, running.url], separators=(",", ":"))
    got = page.run("""
        const ws = open("/ws"), seen = [(await ws.next()).type, (await ws.next()).data];
        const octets = (size) => Uint8Array.from({length: size}, (_, i) => (i * i) >> 4);
        const same = (left, right) => left.byteLength === right.length
            && new Uint8Array(left).every((octet, i) => octet === right[i]);
        const texts = ["Grüße 🐴", "", "x".repeat(125), "ü".repeat(1 << 19)];
        for (const text of texts) {
            ws.send(text);
            seen.push((await ws.next()).data === text);
        }
        for (const kind of ["arraybuffer", "blob"]) {
            ws.binaryType = kind;
            for (const size of [0, 1, 126, 1 << 18]) {
                const sent = octets(size);
                for (const message of [sent.buffer, sent, new Blob([sent])]) {
                    ws.send(message);
                    const {data} = await ws.next();
                    seen.push(same(data instanceof Blob ? await data.arrayBuffer() : data, sent));
                }
            }
        }
        for (let i = 0; i < 200; i++) ws.send(`${i}`);
        for (let i = 0; i < 200; i++) seen.push((await ws.next()).data === `${i}`);
        seen.push(ws.extensions.split(";")[0], ws.protocol);
        ws.close(4001, "bye");
        const {code, wasClean} = await ws.next();
        return [...seen, code, wasClean];
    """)
    checks = [True] * (4 + 2 * 4 * 3 + 200)
    assert got == ["open", hello, *checks, "permessage-deflate", "", 4001, True]
    wait_until(lambda: site.ends)
    assert site.ends == [(4001, "bye")]


def test_without_deflate(visit):
    _, page = visit(ws_per_message_deflate=False)
    got = page.run("""
        const ws = open("/ws"), text = "ü".repeat(1 << 20);
        await ws.next(), await ws.next();
        ws.send(text);
        return [(await ws.next()).data === text, ws.extensions];
    """)
    assert got == [True, ""]


def test_subprotocol(visit, site):
    _, page = visit()
    got = page.run("""
        const ws = open("/ws", ["other", "chosen"]);
        await ws.next();
        const hello = JSON.parse((await ws.next()).data);
        ws.close();
        return [ws.protocol, hello[0], ended(await ws.next())];
    """)
    assert got == ["chosen", ["other", "chosen"], ["close", 1005, "", True]]
    wait_until(lambda: site.ends)
    assert site.ends == [(1005, "")]


def test_endings_by_the_server(visit):
    running, page = visit(log_level="critical")
    ended = """
        const ws = open(%r), seen = [];
        do seen.push(await ws.next()); while (seen.at(-1).type !== "close");
        return [seen[0].type, ...ended(seen.at(-1))];
    """
    for code in (1000, 1001, 1011, 3000, 4999):
        assert page.run(ended % f"/close?code={code}") == ["open", "close", code, "ü" * 61, True]
    assert page.run(ended % "/fail") == ["open", "close", 1011, "", True]
    for path in ("/deny", "/nowhere"):
        assert page.run(ended % path) == ["error", "close", 1006, "", False]
    page.evaluate("window.ws = open('/ws'); ws.next().then(() => ws.next())")
    running.server.should_exit = True
    assert page.evaluate("ws.next().then(ended)")[:2] == ["close", 1012]


def test_many_websockets_of_one_page(visit, site):
    _, page = visit()
    got = page.run("""
        // Ten: of many more that open at once, Chromium makes each wait for seconds.
        const talk = async (_, number) => {
            const ws = open("/ws");
            await ws.next(), await ws.next();
            for (let turn = 0; turn < 10; turn++) {
                ws.send(`${number} ${turn} ${"x".repeat(1000)}`);
                if (!(await ws.next()).data.startsWith(`${number} ${turn} x`)) return false;
            }
            ws.close(3000, `${number}`);
            return (await ws.next()).code === 3000;
        };
        return await Promise.all(Array.from({length: 10}, talk));
    """)
    assert got == [True] * 10
    wait_until(lambda: len(site.ends) == 10)
    assert sorted(site.ends) == sorted((3000, str(number)) for number in range(10))


def assert_gone(running, ends):
    """Check that WebSockets ended with their page. Over HTTP/2 Chromium resets the stream at once,
    and does not send the Close that it has written.
    """
    allowed = {(1001, "")} | ({(1006, "")} if running.url.startswith("https") else set())
    assert set(ends) <= allowed


def test_page_leaves(visit, site, browser):
    """It reloads, goes to another page, is closed: each time its WebSocket ends."""
    running, page = visit()
    wait = "window.ws = open('/ws'); ws.next().then(() => ws.next()).then((event) => event.type)"
    assert page.evaluate(wait) == "message"
    page.call("Page.reload")
    wait_until(lambda: len(site.ends) == 1)
    wait_until(lambda: page.evaluate(f"{LOADED} && !window.ws"))
    assert page.evaluate(wait) == "message"
    page.call("Page.navigate", url="about:blank")
    wait_until(lambda: len(site.ends) == 2)
    page.call("Page.navigate", url=running.url)
    wait_until(lambda: page.evaluate(LOADED))
    assert page.evaluate(wait) == "message"
    page.call("Page.close")
    wait_until(lambda: len(site.ends) == 3)
    assert_gone(running, site.ends)


def test_fetch_and_event_source(visit, site):
    """With a WebSocket open, from the same page."""
    running, page = visit()
    got = page.run("""
        const ws = open("/ws");
        await ws.next(), await ws.next();
        const body = new Blob(["ü".repeat(1 << 19)], {type: "text/plain"});
        const reply = await fetch("/echo", {method: "POST", body});
        const echoed = await reply.text();
        const reader = (await fetch("/numbers")).body.getReader();
        let size = 0;
        for (let part; !(part = await reader.read()).done;) size += part.value.length;
        const source = new EventSource("/events"), events = [];
        await new Promise((done) => source.onmessage = (event) => {
            events.push([event.lastEventId, event.data]);
            if (events.length === 6) done();  // three, and after a reconnect the next three
        });
        source.close();
        ws.send("still there");
        return [reply.status, echoed === await body.text(), size, events, (await ws.next()).data];
    """)
    events = [[str(number), f"{number}\nü"] for number in range(1, 7)]
    assert got == [200, True, sum(len(f"{n}\n") for n in range(1000)), events, "still there"]
    wait_until(lambda: site.streams_ended == 2)
    page.call("Page.navigate", url="about:blank")
    wait_until(lambda: not running.context.cycles)
    assert_gone(running, site.ends)


# A file of some megabytes that does not repeat, and its digest.
FILE = """
    const octets = new Uint8Array(3_000_000);
    for (let at = 0; at < octets.length; at += 50_000)
        crypto.getRandomValues(octets.subarray(at, at + 50_000));
    const hex = (buffer) => [...new Uint8Array(buffer)]
        .map((octet) => octet.toString(16).padStart(2, "0")).join("");
    const digest = hex(await crypto.subtle.digest("SHA-256", octets));
    const file = new File([octets], "grüße.bin");
"""


def test_upload_of_a_form(visit):
    """With fetch(), and with a form of the page, which the browser leaves for the response."""
    _, page = visit()
    told, digest = page.run(
        FILE
        + """
        const form = new FormData();
        form.append("text", "ü".repeat(1000));
        form.append("file", file);
        const reply = await fetch("/upload", {method: "POST", body: form});
        return [await reply.json(), digest];
    """
    )
    expected = {"name": "grüße.bin", "size": 3_000_000}
    assert told == {**expected, "sha256": digest, "text": "ü" * 1000}
    digest = page.run(
        FILE
        + """
        document.body.innerHTML = `<form action="/upload" method="post"
            enctype="multipart/form-data"><input name="text" value="of a page"
            ><input type="file" name="file"></form>`;
        const chosen = new DataTransfer();
        chosen.items.add(file);
        document.querySelector("[type=file]").files = chosen.files;
        setTimeout(() => document.querySelector("form").submit());
        return digest;
    """
    )
    wait_until(
        lambda: page.evaluate("location.pathname + document.readyState") == "/uploadcomplete"
    )
    told = json.loads(page.evaluate("document.body.innerText"))
    assert told == {**expected, "sha256": digest, "text": "of a page"}


def test_large_upload_with_progress_refused_and_broken_off(visit, site):
    running, page = visit()
    got = page.run("""
        const body = new Blob([new Uint8Array(12_000_000)]), progress = [];
        const asked = new XMLHttpRequest();
        asked.open("POST", "/upload");
        asked.setRequestHeader("Content-Type", "application/octet-stream");
        asked.upload.onprogress = (event) => progress.push(event.loaded);
        await new Promise((done) => { asked.onloadend = done; asked.send(body); });
        const refused = await fetch("/refuse", {method: "POST", body});
        return [asked.status, asked.responseText, progress.at(-1), refused.status,
            await refused.text(), (await fetch("/numbers")).status];
    """)
    assert got == [200, '{"size":12000000}', 12_000_000, 413, "too large", 200]
    site.uploading.clear()
    page.run("""
        window.abort = new AbortController();
        window.upload = fetch("/upload", {
            method: "POST",
            headers: {"Content-Type": "application/octet-stream"},
            body: new Blob(Array(64).fill(new Uint8Array(1_000_000))), // browsers limit all blobs
            signal: abort.signal,
        }).then((reply) => reply.status, (error) => error.name);
    """)
    wait_until(lambda: site.uploading)
    assert page.evaluate("abort.abort(), upload") == "AbortError"
    wait_until(lambda: site.uploads_broken == 1)
    assert sum(site.uploading) < 64_000_000
    page.call("Page.navigate", url="about:blank")
    wait_until(lambda: not running.context.cycles)


def test_event_source_connects_again_when_a_stream_breaks(visit):
    _, page = visit(log_level="critical")
    got = page.run("""
        const source = new EventSource("/broken"), events = [];
        let errors = 0;
        source.onerror = () => errors++;
        await new Promise((done) => source.onmessage = (event) => {
            events.push(event.data);
            if (events.length === 6) done();
            else if (events.length % 2 === 0) fetch("/heard");
        });
        source.close();
        return [events, errors >= 2];
    """)
    assert got == [["1", "2", "3", "4", "5", "6"], True]


@over_http2
def test_thirty_fetches_at_once(visit, site):
    """All are sent before the first is answered, on the connection that the page came by."""
    running, page = visit()
    got = page.run("""
        const ask = async (_, number) => (await fetch(`/together?${number}`)).text();
        return await Promise.all(Array.from({length: 30}, ask));
    """)
    assert got == [str(number) for number in range(30)]
    assert len(running.context.connections) == 1


@over_http2
def test_ten_event_sources_at_once(visit, site):
    """A fetch and a WebSocket still get through."""
    running, page = visit()
    got = page.run("""
        const sources = Array.from({length: 10}, () => new EventSource("/ticks"));
        const events = await Promise.all(sources.map((source) => new Promise((done) => {
            const seen = [];
            source.onmessage = (event) => seen.push(event.data) === 5 && done(seen.join());
        })));
        const status = (await fetch("/echo", {method: "POST", body: "x"})).status;
        const ws = open("/ws");
        const hello = (await ws.next()).type;
        for (const source of sources) source.close();
        return [events, status, hello];
    """)
    assert got == [["0,1,2,3,4"] * 10, 200, "open"]
    assert site.versions == {("http", "2"), ("websocket", "2")}
    assert len(running.context.connections) == 1
    wait_until(lambda: site.streams_ended == 10)


@over_http2
def test_stream_as_the_body_of_a_fetch(visit, site):
    """The page writes each part once the server has received the one before it."""
    _, page = visit()
    received = page.evaluate("""
        window.pipe = new TransformStream();
        window.writer = pipe.writable.getWriter();
        window.reply = fetch("/upload", {
            method: "POST",
            headers: {"Content-Type": "application/octet-stream"},
            body: pipe.readable,
            duplex: "half",
        }).then((reply) => reply.json());
        0
    """)
    assert received == 0
    for count in range(1, 4):
        page.evaluate("void writer.write(new Uint8Array(1000))")
        wait_until(lambda count=count: sum(site.uploading) == 1000 * count)
    large = "writer.write(new Uint8Array(1_000_000)).then(() => writer.close())"
    assert page.run(f"await {large}; return (await reply).size") == 1_003_000


@over_http2
def test_stream_as_the_body_of_a_fetch_breaks_off(visit, site):
    running, page = visit()
    page.evaluate("""
        window.pipe = new TransformStream();
        window.writer = pipe.writable.getWriter();
        window.failed = fetch("/upload", {
            method: "POST",
            headers: {"Content-Type": "application/octet-stream"},
            body: pipe.readable,
            duplex: "half",
        }).catch((error) => "failed");
        void writer.write(new Uint8Array(1000));
    """)
    wait_until(lambda: site.uploading)
    assert page.evaluate("writer.abort(), failed") == "failed"
    wait_until(lambda: site.uploads_broken == 1)
    assert page.run("return (await fetch('/numbers')).status") == 200
    assert len(running.context.connections) == 1
