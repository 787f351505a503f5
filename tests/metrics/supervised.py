"""A supervisor that prints the counts of its workers for each line that it reads. Argument: the
options as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading

from thestral import Config
from thestral.process.supervisor import Supervisor


def answer(supervisor: Supervisor) -> None:
    assert supervisor.metrics is not None
    # Not sys.stdin: a forked worker would inherit its lock while it is held, and wait for it.
    while os.read(0, 1):
        found = supervisor.metrics.snapshot()
        told = {
            "begun": found.counts.begun,
            "status": found.counts.by_status(),
            "routes": {route: one.count for route, one in found.counts.by_route().items()},
            "workers": [(one.number, one.pid, one.in_flight, one.silent) for one in found.workers],
            "running": [
                dataclasses.asdict(request) for one in found.workers for request in one.running
            ],
            "starts": found.starts,
            "ends": found.ends,
            "queues": [dataclasses.astuple(queue) for queue in found.queues],
        }
        print("snapshot", json.dumps(told), flush=True)


def main() -> None:
    supervisor = Supervisor(Config(**json.loads(sys.argv[1])))
    threading.Thread(target=answer, args=(supervisor,), daemon=True).start()
    supervisor.run()


if __name__ == "__main__":
    main()
