"""libFuzzer on the C code: python tests/fuzz/fuzz_c.py [--seconds N] [--folder DIR] [TARGET ...]

Each target runs for N seconds under AddressSanitizer and UndefinedBehaviorSanitizer. Its corpus
stays in DIR, and the next run starts from there. If an input breaks a target, the input is named
and the status is 1; CONTRIBUTING.md says what to do with it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from c_targets import LONGEST, ROOT, SANITIZERS, TARGETS, build, compile_core, seeds
from test_differential import CHUNK_LINES, DICTIONARY, FRAMING, REQUEST_LINES

WORD_MAX = 40  # bytes of the longest word in a dictionary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target [default: 60]")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/fuzz")
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    clang = os.environ.get("CLANG", "clang")
    if shutil.which(clang) is None:
        print(f"{clang} is not installed: apt-get install clang, or set CLANG", file=sys.stderr)
        return 2
    core = options.folder / "core"
    core.mkdir(parents=True, exist_ok=True)
    compiler = [clang, "-O1", *SANITIZERS]
    if not has_libfuzzer(clang, core):
        print(f"{clang} has no libFuzzer: apt-get install libclang-rt-dev", file=sys.stderr)
        return 2
    try:
        objects = compile_core(core, [*compiler, "-fsanitize=fuzzer-no-link"])
        for name in options.targets:
            program = options.folder / name / "fuzz"
            program.parent.mkdir(exist_ok=True)
            build(name, program, compiler, [*objects, "-fsanitize=fuzzer"])
    except subprocess.CalledProcessError as exc:
        print(exc.stderr, file=sys.stderr)
        return 2
    failed = [name for name in options.targets if not fuzz(name, options)]
    if failed:
        print(f"broken: {', '.join(failed)}; inputs under {options.folder}", file=sys.stderr)
    return 1 if failed else 0


def has_libfuzzer(clang: str, place: Path) -> bool:
    """Return whether a target links: distributions have libFuzzer in a package of its own."""
    source = (
        "int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return !data + !size; }"
    )
    command = [clang, "-fsanitize=fuzzer,address,undefined", "-xc", "-", "-o", str(place / "probe")]
    return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0


def fuzz(name: str, options: argparse.Namespace) -> bool:
    """Run one target; return whether nothing broke it."""
    place = options.folder / name
    for folder in ("corpus", "seeds"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    for data in seeds(name):
        (place / "seeds" / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    words = {*DICTIONARY, *FRAMING, *CHUNK_LINES, *REQUEST_LINES}
    (place / "words").write_text("".join(map(quoted, sorted(words))))
    print(f"{name}: {options.seconds} s", flush=True)
    command = [
        *(str(place / "fuzz"), str(place / "corpus"), str(place / "seeds")),
        *(f"-dict={place / 'words'}", f"-artifact_prefix={place}/", f"-max_len={LONGEST}"),
        *(f"-max_total_time={options.seconds}", "-timeout=10", "-print_final_stats=1"),
        *("-close_fd_mask=1", "-verbosity=1", "-use_value_profile=1", "-rss_limit_mb=2048"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    if done.returncode:
        said = [line for line in lines if not line.startswith("#") or " 0x" in line]
        print("\n".join(said[-60:]), file=sys.stderr)
        return False
    learnt = next((line for line in reversed(lines) if " cov: " in line), "")
    executed = [line for line in lines if "number_of_executed_units" in line]
    print(learnt, *executed, sep="\n", flush=True)
    return True


def quoted(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    if not 0 < len(word) <= WORD_MAX:
        return ""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


if __name__ == "__main__":
    sys.exit(main())
