"""A real Prometheus scrapes the admin port, and answers queries."""

from __future__ import annotations

import json
import socket
import subprocess
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from support import program, wait_until

CONFIGURATION = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: thestral
    static_configs:
      - targets: ["{target}"]
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def query(port, text):
    """The values of a query, by their labels as JSON."""
    try:
        with urlopen(
            f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': text})}"
        ) as answer:
            result = json.load(answer)["data"]["result"]
    except URLError as exc:  # it is starting
        if isinstance(exc, HTTPError):
            exc.close()
        return {}
    return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in result}


@pytest.mark.timeout(120)
def test_prometheus_scrapes_the_admin_port(operated, tmp_path):
    path = program("Prometheus")
    command = operated("--workers", "2", admin="127.0.0.1:0")
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION.format(target=command.admin()))
    port = free_port()
    process = subprocess.Popen(
        [
            path,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(7):
            urlopen(command.url()).close()
        count = "sum(http_server_request_duration_seconds_count)"
        wait_until(lambda: list(query(port, count).values()) == [7.0], 60)
        assert list(query(port, "up").values()) == [1.0]
        workers = "count by (instance) (thestral_worker_resident_bytes)"
        wait_until(lambda: list(query(port, workers).values()) == [2.0])
    finally:
        process.terminate()
        process.wait()
