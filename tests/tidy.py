#!/usr/bin/env python3
"""The rules of the house that no compiler knows. Prints each breach as file:line and exits 1.

Checked: the direction of #includes, where nng may be seen, that the engine is deterministic (no
clock, no chance) and takes memory by one door only, line width, tabs, blanks at line ends, and
unfinished business; and that each planted bug still finds the text that it changes. Modules without
a test are listed, but do not fail."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests" / "planted"))
import planted  # noqa: E402

SOURCES = ("pool", "engine", "ipc", "server")
ALL = SOURCES + ("tests", "benchmarks")
COLUMN_MAX = 100

# What a file below the first path may include: the paths of which one must begin the include.
# The first match counts, so the narrower folder stands first.
MAY_INCLUDE = (
    ("pool/", ("pool/",)),
    ("engine/storage/", ("engine/storage/", "pool/")),
    ("engine/lsm/", ("engine/lsm/", "engine/storage/", "pool/")),
    ("engine/", ("engine/", "pool/")),
    ("ipc/", ("ipc/", "pool/")),
    ("server/", ("server/", "engine/", "ipc/", "pool/")),
)
NNG_HOMES = ("ipc/", "tests/ipc/", "benchmarks/ipc/")

# In the engine. A call through a struct (clock->time()) is somebody else's decision.
CALL = r"(?<![\w.>])({})\s*\("
CHANCE = re.compile(CALL.format(
    "time|clock|clock_gettime|gettimeofday|rand|rand_r|random|srand|srandom|drand48|getrandom"))
ALLOCATION = re.compile(CALL.format(
    "malloc|calloc|realloc|reallocarray|aligned_alloc|posix_memalign|strdup|asprintf|free"))
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
INCLUDE = re.compile(r'\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')
COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def without_comments(text):
    """The code alone, every line where it was."""
    return COMMENT_OR_TEXT.sub(lambda match: "\n" * match.group().count("\n"), text)


def check_include(path, target, system):
    """Why `path` must not include `target`, or None."""
    if target.startswith("nng/") and not path.startswith(NNG_HOMES):
        return "nng is a matter of ipc/ alone"
    if system:
        return None
    for folder, allowed in MAY_INCLUDE:
        if path.startswith(folder):
            if not target.startswith(allowed):
                return f"{folder} must not depend on {target}"
            break
    if path.startswith("engine/groove") and target.startswith("engine/forest"):
        return "the groove must not depend on the forest"
    return None


def check_file(path, breaches):
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    code = without_comments(text).split("\n")
    includes = []

    def breach(number, why):
        breaches.append(f"{name}:{number}: {why}")

    for number, line in enumerate(text.split("\n"), 1):
        if "\t" in line:
            breach(number, "a tab")
        if line != line.rstrip():
            breach(number, "blanks at the end of the line")
        if UNFINISHED.search(line):
            breach(number, "unfinished business")
        if path.suffix not in (".c", ".h"):
            continue
        if len(line) > COLUMN_MAX:
            breach(number, f"{len(line)} columns, more than {COLUMN_MAX}")
        match = INCLUDE.match(line)
        if match:
            target = match.group(1) or match.group(2)
            includes.append(target)
            why = check_include(name, target, match.group(1) is None)
            if why:
                breach(number, why)
    if name.startswith("engine/"):
        for number, line in enumerate(code, 1):
            if CHANCE.search(line):
                breach(number, "time and chance are passed into the engine, never taken")
            if ALLOCATION.search(line):
                breach(number, "the engine takes memory by memory_acquire only")
    if name.startswith(tuple(f"{folder}/" for folder in SOURCES)) and path.suffix == ".c":
        header = path.with_suffix(".h")
        if header.exists() and includes[:1] != [header.relative_to(ROOT).as_posix()]:
            breach(1, "its own header is not what it includes first")


def main():
    breaches = planted.check()
    untested = []
    for folder in ALL:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".c", ".h", ".py", ".sh"):
                check_file(path, breaches)
            relative = path.relative_to(ROOT)
            if folder in SOURCES and path.suffix == ".c" and path.with_suffix(".h").exists():
                tests = (ROOT / "tests" / relative.parent).glob(f"*_{path.stem}*.c")
                if not any(tests):
                    untested.append(relative.as_posix())
    if untested:
        print("tidy: without a test of their own: " + " ".join(untested))
    for line in breaches:
        print(line)
    print(f"tidy: {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
