"""Serves an application in this one process with everything counted, as `--admin` does in each
worker: `python -m counted APP --port PORT`. The command would start a supervisor and a worker.
"""

from __future__ import annotations

import argparse

from thestral import Config, Server
from thestral.process import sampling


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("app")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    # Ticks come by the clock, so the slower a run is, the more they would add to each request.
    sampling.INTERVAL = 1e6
    # The address is not used: a Server without a supervisor only counts.
    settings = {"access_log": False, "log_level": "warning", "admin": "127.0.0.1:0"}
    settings["watchdog"] = 0.0  # in a process with threads, libc's system calls cost more
    Server(Config(options.app, port=options.port, **settings)).run()


if __name__ == "__main__":
    main()
