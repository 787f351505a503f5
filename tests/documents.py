"""What the documents say of the options, made from Config by `make readme`; a test compares it.

Between `<!-- NAME -->` and `<!-- end of NAME -->` stands what TABLES[file][NAME] returns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from thestral.config import default_of, options
from thestral.config.option import Option

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = dict(options())

# Why each limit has its default; None is "not set". Every option that is_limit() must be here.
REASONS = {
    "limit_request_line": "longer than any real URL, and than proxies let through",
    "limit_header_size": "bounds the cost of a head before the application sees it",
    "limit_header_count": "each field is a Python object; browsers behind proxies send about 40",
    "limit_request_body": "the application knows what is too large; an unread body waits in TCP",
    "limit_concurrency": "depends on the cost of a request",
    "limit_connections": "bounded by file descriptors: when they run out, accepting pauses",
    "limit_max_requests": "contains leaks; not a defence against peers",
    "limit_max_requests_jitter": "workers should not be replaced all at once",
    "limit_max_rss": "contains leaks; not a defence against peers",
    "limit_worker_lifetime": "contains leaks; not a defence against peers",
    "timeout_head": "an incomplete head holds a connection open (Slowloris)",
    "timeout_body": "an incomplete body holds a request, and the application's resources",
    "timeout_keep_alive": "longer than the 60 s of common load balancers, so that they close first",
    "timeout_write": "a client that does not read keeps its response in memory",
    "timeout_request": "long polls and streams are legitimate",
    "timeout_graceful_shutdown": "a deployment must finish",
    "timeout_tls_handshake": "an unfinished handshake holds a TLS object",
    "timeout_worker_healthcheck": "nothing can happen in such a worker any more",
    "timeout_worker_blocked": "an application may compute for a long time",
    "timeout_worker_startup": "loading a model often takes minutes",
    "ws_max_size": "uvicorn's; checked during decompression, so a bomb costs no more",
    "ws_max_queue": "uvicorn's; reading pauses when the queue is full",
    "ws_max_queue_size": "covers many small messages and few large ones",
    "ws_ping_interval": "detects clients that vanished without closing",
    "ws_ping_timeout": "as for `--ws-ping-interval`",
    "ws_close_timeout": "a client that does not answer a Close holds its connection open",
    "ws_deflate_server_window_bits": "4 KiB per connection that compresses",
    "ws_deflate_client_window_bits": "4 KiB per connection whose client compresses",
    "ws_deflate_memory_level": "zlib's memory per connection that compresses",
}

# uvicorn 0.54's options: its default, and what differs here; "" is "same".
UVICORN = {
    "host": ("127.0.0.1", "repeatable; `::` covers IPv4 and IPv6"),
    "port": ("8000", ""),
    "uds": ("", "`--uds-permissions` sets its mode; 666 by default, as in uvicorn"),
    "fd": ("", "the socket's family is detected; also systemd's `LISTEN_FDS`"),
    "reload": ("off", "the old worker ends first, as in uvicorn; by watchfiles, or by polling"),
    "reload_dirs": ("", ""),
    "reload_includes": ("", ""),
    "reload_excludes": ("", "`.venv`, `node_modules` and the like are always excluded"),
    "reload_delay": ("0.25", ""),
    "workers": ("", "or `auto`; a single one is supervised, too"),
    "loop": ("auto", ""),
    "http": ("auto", "accepted without effect: there is only one parser"),
    "ws": ("auto", "`none`, or thestral's own implementation"),
    "ws_max_size": ("16777216", ""),
    "ws_max_queue": ("32", "together with `--ws-max-queue-size`"),
    "ws_ping_interval": ("20", ""),
    "ws_ping_timeout": ("20", "any data counts as an answer, not only the Pong"),
    "ws_per_message_deflate": ("on", ""),
    "lifespan": ("auto", "`auto` logs what the lifespan raised"),
    "interface": ("auto", "`wsgi` uses a2wsgi"),
    "env_file": ("", ""),
    "log_config": ("", "also TOML"),
    "log_level": ("", ""),
    "access_log": ("on", "`--access-log-format` sets its format"),
    "use_colors": ("", "respects `NO_COLOR`"),
    "proxy_headers": ("on", ""),
    "server_header": ("on", "its value is `thestral`"),
    "date_header": ("on", ""),
    "forwarded_allow_ips": ("", "Unix sockets are also trusted"),
    "root_path": ("", "not added again to a path that already has it"),
    "limit_concurrency": ("", "counts running requests, not idle connections; `Retry-After`"),
    "backlog": ("2048", ""),
    "limit_max_requests": ("", "the next worker is ready first; works without `--workers`"),
    "limit_max_requests_jitter": ("0", "10 %"),
    "timeout_keep_alive": ("5", "5 s is shorter than a load balancer's 60 s, and causes 502s"),
    "timeout_graceful_shutdown": ("", "finite"),
    "timeout_worker_healthcheck": (
        "5",
        "measured by what the kernel shows; `--timeout-worker-blocked` looks at the loop",
    ),
    "ssl_keyfile": ("", "repeatable; may be a pipe, with workers too"),
    "ssl_certfile": ("", "repeatable (SNI); renewed without a restart"),
    "ssl_keyfile_password": ("", ""),
    "ssl_version": ("17", "`--ssl-min-version` is simpler"),
    "ssl_cert_reqs": ("0", "also as words"),
    "ssl_ca_certs": ("", ""),
    "ssl_ciphers": ("", ""),
    "headers": ("", ""),
    "app_dir": ("", ""),
    "h11_max_incomplete_event_size": ("", "sets `--limit-header-size`"),
    "reset_contextvars": ("off", "without effect: requests are always separate"),
    "factory": ("off", ""),
}
NOT_OPTIONS = {"env_file"}  # of the command alone


def is_limit(name: str) -> bool:
    """Whether an option bounds what a peer, or a fault, can cost."""
    kinds = ("limit_", "timeout_", "ws_max_", "ws_ping_", "ws_close_", "ws_deflate_")
    numbers = (int, float)
    return name.startswith(kinds) and OPTIONS[name].kind in numbers and name not in HARMLESS


# They choose how well is compressed, not how much may be held.
HARMLESS = {"ws_deflate_level", "ws_deflate_min_size"}


def flag(name: str, spec: Option) -> str:
    text = "--" + (spec.flag or name).replace("_", "-")
    return f"`{text}`, `--no-{text[2:]}`" if spec.kind is bool else f"`{text}`"


def default(name: str, spec: Option) -> str:
    value = default_of(name)
    if value in (None, ""):
        return ""
    if spec.kind is bool:
        return "on" if value else "off"
    if spec.kind is list:
        return ", ".join(value)
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{number} {spec.unit}".rstrip()


def option_table() -> str:
    """Every option under the heading of its group."""
    lines = []
    group = ""
    for name, spec in OPTIONS.items():
        if spec.group != group:
            group = spec.group
            lines += ["", f"## {group}", "", "| option | default | |", "| --- | --- | --- |"]
        text = spec.help.replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| {flag(name, spec)} | {default(name, spec)} | {text} |")
    return "\n".join([*lines[1:], ""])


def limit_table() -> str:
    lines = ["| option | default | bounds | why |", "| --- | --- | --- | --- |"]
    for name, reason in REASONS.items():
        spec = OPTIONS[name]
        text = spec.help.replace("|", "\\|")
        lines.append(
            f"| {flag(name, spec)} | {default(name, spec) or 'none'} | {text} | {reason} |"
        )
    return "\n".join([*lines, ""])


def uvicorn_table() -> str:
    lines = ["| option | uvicorn's default | thestral's | |", "| --- | --- | --- | --- |"]
    for name, (theirs, difference) in UVICORN.items():
        if name in NOT_OPTIONS:
            shown, ours = "`--" + name.replace("_", "-") + "`", ""
        else:
            spec = OPTIONS[name]
            shown, ours = flag(name, spec).partition(",")[0], default(name, spec)
        lines.append(f"| {shown} | {theirs} | {ours} | {difference or 'same'} |")
    return "\n".join([*lines, ""])


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "docs/options.md": {"options": option_table},
    "docs/migrating.md": {"uvicorn": uvicorn_table},
    "SECURITY.md": {"limits": limit_table},
}


def with_tables(file: str, text: str) -> str:
    """A document's text with its tables as they should be."""
    for name, table in TABLES[file].items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    for file in TABLES:
        path = ROOT / file
        path.write_text(with_tables(file, path.read_text()))
