"""Measures thestral and its peers, one server at a time, in interleaved rounds.

A server has cores of its own, and its load runs on others. Every response is checked before it is
measured. See bench/README.md.

    python bench/peers.py
    python bench/peers.py --servers thestral uvicorn --scenarios "plain GET, 4 headers" --rounds 7
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from environment import CHECKOUT, Environment, prepare
from scenarios import SCENARIOS, Scenario
from servers import LIMITS, SERVERS, Server, UnsupportedError, cores_for

WARM_UP = 1  # seconds


def measure(
    scenario: Scenario, name: str, environment: Environment, seconds: int, cores: list[int]
) -> dict[str, float]:
    """Measure one server in one round.

    Raises:
        ValueError: the server cannot do this, or failed; the message says which.
    """
    own, others = cores_for(scenario.setup, cores)
    server = Server(name, scenario.setup, environment, own)
    try:
        os.sched_setaffinity(0, others)
        server.wait(lambda: scenario.load.check(server))
        if scenario.load.warm:
            scenario.load.measure(server, environment, WARM_UP, others)
        figures = scenario.load.measure(server, environment, seconds, others)
        figures["rss"] = server.tree.peak()
    except OSError as exc:
        raise ValueError(f"does not answer: {exc}") from exc
    finally:
        os.sched_setaffinity(0, cores)
        server.stop()
    try:
        answers = figures.pop("answers", 0)
        if scenario.setup.access_log and server.logged() < answers:
            raise ValueError(f"logged {server.logged()} of {answers:.0f} requests")
    finally:
        server.close()
    return figures


def rounds(
    options: argparse.Namespace,
    environment: Environment,
    scenario: Scenario,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure one scenario. Return each server's figures by round, or why there are none."""
    cores = sorted(os.sched_getaffinity(0))
    results: dict[str, Any] = {
        server: [] for server in options.servers if scenario.setup.limits or server not in LIMITS
    }
    again: dict[str, str] = {}
    for number in range(options.rounds):
        for server, found in results.items():
            if isinstance(found, str):
                continue
            say(f"round {number + 1} of {options.rounds}, {server}")
            try:
                try:
                    figures = measure(scenario, server, environment, options.seconds, cores)
                except UnsupportedError:
                    raise
                except ValueError as exc:  # a busy machine may be to blame, once
                    again[server] = str(exc)
                    figures = measure(scenario, server, environment, options.seconds, cores)
            except UnsupportedError as exc:
                results[server] = str(exc)
            except ValueError as exc:
                results[server] = f"failed: {exc}"
                del again[server]
            else:
                found.append(figures)
    return {
        "primary": scenario.primary,
        "unit": scenario.unit,
        "servers": results,
        "again": again,
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"Scenarios: {'; '.join(SCENARIOS)}."
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="turns of each server")
    add("--seconds", type=int, default=3, help="length of each turn")
    add("--servers", nargs="+", default=list(SERVERS), choices=SERVERS, metavar="SERVER")
    add("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS, metavar="SCENARIO")
    add("--uvloop", default="", metavar="VERSION", help="install it in place of the pinned one")
    add("--note", default="", help="a sentence for the report, such as what else was running")
    add("--build", type=Path, default=CHECKOUT / "build/bench", help="folder of the peers")
    add("--output", type=Path, help="folder of results.json, .md and .svg [default: --build]")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    environment = prepare(options.build.resolve(), options.uvloop)
    made = {
        "versions": environment.versions,
        "note": options.note,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "results": {},
    }
    output = options.output or options.build
    for name in options.scenarios:
        started = time.monotonic()

        def say(text: str, name: str = name) -> None:
            print(f"\r\x1b[K{name}: {text}", end="", file=sys.stderr, flush=True)

        made["results"][name] = rounds(options, environment, SCENARIOS[name], say)
        print(f"\r\x1b[K{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(report.detail(name, made["results"][name]) + "\n", flush=True)
        report.write(made, output)  # now, so that an interrupted run leaves results
    servers = [server for server in SERVERS if server in options.servers]
    print(report.summary(made["results"], servers))
    print(f"\nwritten to {output}/results.md, .json and .svg", file=sys.stderr)


if __name__ == "__main__":
    main()
