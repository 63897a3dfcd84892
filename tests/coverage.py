#!/usr/bin/env python3
"""How many branches of what must not fail the tests take: recovery, and all that reads bytes of others.

usage: coverage.py [--missing] BUILD

BUILD is a build with --coverage in which the tests have run (`./dev coverage`). Printed is a table,
one line a file; with --missing also each line of which a branch was never taken. Exit code 1 when a
file is below the promise.

Branches of assertions are not counted: of each, one side is a bug of ours, and no test can take it.
They are told by their lines, from `assert(` to the parenthesis that closes it."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMISED_PERCENT = 90
FILES = (
    "engine/storage/superblock.c",
    "engine/storage/journal.c",
    "engine/storage/free_set.c",
    "engine/storage/trailer.c",
    "engine/lsm/manifest_log.c",
    "engine/lsm/spill.c",
    "engine/catalog.c",
    "engine/forest_checkpoint.c",
    "engine/forest_open.c",
    "engine/batch.c",
    "engine/session.c",
    "engine/forest_session.c",
    "ipc/protocol.c",
)
ASSERTION = re.compile(r"\bassert\s*\(")
COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def assertion_lines(text):
    """The numbers of the lines that assertions are on."""
    code = COMMENT_OR_TEXT.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    lines = set()
    for match in ASSERTION.finditer(code):
        end = match.end()
        depth = 1
        while depth > 0:
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        first = code.count("\n", 0, match.start()) + 1
        lines.update(range(first, first + code.count("\n", match.start(), end) + 1))
    return lines


def counts_of(build, name):
    """[(line, [times that each of its branches was taken])] of a file, as gcov has it."""
    notes = list(build.glob(f"CMakeFiles/*.dir/{name}.gcno"))
    if len(notes) != 1:
        sys.exit(f"coverage: {len(notes)} objects of {name} below {build}")
    report = subprocess.run(["gcov", "--json-format", "--stdout", "--branch-probabilities",
                             str(notes[0])], check=True, capture_output=True, text=True).stdout
    taken = {}
    for file in json.loads(report)["files"]:
        if not file["file"].endswith(name):
            continue
        for line in file["lines"]:
            branches = [branch["count"] for branch in line["branches"]]
            taken.setdefault(line["line_number"], []).extend(branches)
    return sorted(taken.items())


def main():
    arguments = sys.argv[1:]
    missing = "--missing" in arguments
    builds = [argument for argument in arguments if not argument.startswith("--")]
    if len(builds) != 1:
        sys.exit("usage: coverage.py [--missing] BUILD")
    low = False
    print("| file | branches | taken | % |\n|---|---|---|---|")
    untaken = []
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = text.split("\n")
        asserted = assertion_lines(text)
        total = taken = 0
        for number, counts in counts_of(Path(builds[0]), name):
            if number in asserted:
                continue
            total += len(counts)
            taken += sum(count > 0 for count in counts)
            if 0 in counts:
                shown = " ".join(str(count) for count in counts)
                untaken.append(f"{name}:{number}: [{shown}] {lines[number - 1].strip()}")
        percent = 100 * taken / total
        low |= percent < PROMISED_PERCENT
        print(f"| `{name}` | {total} | {taken} | {percent:.1f} |")
    if missing:
        print("\n".join(untaken))
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
