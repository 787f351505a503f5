"""Runs the conformance cases against any server and prints a table:

    python tests/http2/against.py HOST PORT [--tls] [--style whole|bytes|cuts|early] [--strict]
        [--only TEXT] [--patience SECONDS] [--all]

The server must answer GET and POST of / with 200 and a body of at least five bytes, once it has
read the request, as cases_app.py does. The exit status is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import random
import ssl
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from conformance import Case, Mark, Verdict, load, run
from frames import Client, connect


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument(
        "--tls", action="store_true", help="with h2 by ALPN; any certificate will do"
    )
    parser.add_argument("--style", choices=["whole", "bytes", "cuts", "early"], default="whole")
    parser.add_argument("--seed", type=int, default=None, help="of the cuts; printed")
    parser.add_argument("--strict", action="store_true", help="as h2spec --strict")
    parser.add_argument("--only", default="", help="cases whose name or section has this text")
    parser.add_argument("--patience", type=float, default=2.0, help="seconds to wait for a frame")
    parser.add_argument("--all", action="store_true", help="print the cases that passed, too")
    return parser.parse_args()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> int:
    options = parse()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)

    def open_client() -> Client:
        tls = trusting() if options.tls else None
        return connect(options.host, options.port, tls, options.patience)

    def judge(case: Case) -> Verdict:
        try:
            rng = random.Random(f"{seed} {case.name}")
            return run(case, open_client, options.style, rng, strict=options.strict)
        except Exception as exc:  # one case that cannot be run must not lose the table
            return Verdict(Mark.FAIL, f"{type(exc).__name__}: {exc}")

    cases = [case for case in load() if options.only in str(case)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(judge, cases))
    for case, verdict in zip(cases, verdicts, strict=True):
        if options.all or verdict.mark is not Mark.OK:
            print(f"{verdict.mark.value:8}{case}\n{'':8}  {verdict.detail}")
    counts = Counter(verdict.mark for verdict in verdicts)
    subjects = {subject for case in cases for subject in case.h2spec}
    failed = {
        subject
        for case, verdict in zip(cases, verdicts, strict=True)
        if verdict.mark is Mark.FAIL
        for subject in case.h2spec
    }
    print(
        ", ".join(f"{counts[mark]} {mark.value}" for mark in Mark), f"of {len(cases)}; seed {seed}"
    )
    print(f"subjects of h2spec without a failure: {len(subjects - failed)} of {len(subjects)}")
    return 1 if counts[Mark.FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
