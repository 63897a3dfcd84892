#!/usr/bin/env python3
"""Plants bugs, one at a time, and sees what catches them: the measure of the tests.

usage: planted.py [--check] [--soak MINUTES] [NAME...]

A bug is a file of bugs/: a line that says what it is, the file to change, and pairs of "find" and
"put" that change it. The tree is copied once, to build/planted/tree; there each bug is built and
attacked, in this order, until something strikes:

  own        the module's own tests: they must pass, or the bug is too easy to count
  forest     the Criterion tests of the whole engine
  tests      all other Criterion tests of the engine and the server
  corpora    what fuzzing has found
  crash      crash points
  atlas      damage to every zone and field of a closed file
  sim        the simulation, with the seeds of CI
  system     the real process
  soak       the simulation with random seeds

The table says what struck, and after how long. `none` is the tree as it is, where nothing may
strike. --check only looks whether every text is found exactly once, so that bugs survive code that
moves. Exit code 1: a bug that nothing caught, or that the module's own tests did."""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUGS = Path(__file__).resolve().parent / "bugs"
WORK = ROOT / "build" / "planted"
TREE = WORK / "tree"
PRESET = "checked"
BUILD = TREE / "build" / PRESET
JOBS = 2
SIM_SEEDS, SIM_CHUNK = 300, 10
PROGRAM_TIMEOUT_S = 600
SYSTEM = ("end_to_end.sh", "kill_under_load.sh", "fault_runs.sh", "disk_full.sh")
# The Criterion tests that see most, for they run the whole engine.
FOREST = {path.stem for path in (ROOT / "tests" / "engine").glob("test_forest*.c")}
FOREST |= {"test_unique", "test_verify", "test_verify_surgery"}


class BuildError(Exception):
    """A bug is no bug if a compiler finds it."""


class Bug:
    """One file of bugs/."""

    def __init__(self, path):
        self.name = path.stem
        lines = path.read_text(encoding="utf-8").split("\n")
        self.what, self.file = lines[0], lines[1]
        self.changes = []
        for line in lines[2:-1]:
            if line == "---- find":
                self.changes.append(["", ""])
                side = 0
            elif line == "---- put":
                side = 1
            else:
                self.changes[-1][side] += line + "\n"

    def problem(self, root):
        """Why it cannot be planted below `root`, or None."""
        path = root / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        text = path.read_text(encoding="utf-8")
        for find, put in self.changes:
            if find == put or not find:
                return "a change that changes nothing"
            if text.count(find) != 1:
                return f"found {text.count(find)} times in {self.file}:\n{find}"
        return None if self.changes else "no change"

    def plant(self, root):
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        # From the end on: each change is found in the text as it was.
        for find, put in sorted(self.changes, key=lambda change: -text.index(change[0])):
            at = text.index(find)
            text = text[:at] + put + text[at + len(find):]
        path.write_text(text, encoding="utf-8")

    def own_test(self):
        """The name of the module's own test, or None."""
        path = Path(self.file)
        test = ROOT / "tests" / path.parent / f"test_{path.stem}.c"
        return test.stem if test.is_file() else None


class NoBug:
    """The tree as it is."""
    name, what, file = "none", "Nothing is changed.", None

    def problem(self, root):
        return None

    def plant(self, root):
        pass

    def own_test(self):
        return None


def load():
    return [Bug(path) for path in sorted(BUGS.glob("*.bug"))]


def check():
    """One line per bug that no longer fits the tree."""
    return [f"tests/planted/bugs/{bug.name}.bug: {problem}" for bug in load()
            if (problem := bug.problem(ROOT)) is not None]


def copy_tree():
    """Makes TREE like the working tree. What is the same keeps its time, and is not built again."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        source, target = ROOT / name, TREE / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            shutil.copymode(source, target)
    for target in TREE.rglob("*"):
        name = target.relative_to(TREE).as_posix()
        if target.is_file() and not name.startswith("build/") and name not in names:
            target.unlink()


def environment():
    return dict(os.environ, CCACHE_BASEDIR=str(TREE), CCACHE_NOHASHDIR="1")


def build(targets, log):
    """Whether the targets are there now."""
    if not targets:
        return True
    with open(log, "ab") as output:
        return subprocess.run(["cmake", "--build", str(BUILD), "-j", str(JOBS), "--", "--quiet",
                               *targets], env=environment(), stdout=output,
                              stderr=output).returncode == 0


def configure(log):
    with open(log, "ab") as output:
        subprocess.run(["cmake", "--preset", PRESET], cwd=TREE, env=environment(), check=True,
                       stdout=output, stderr=output)


def run(command, log, timeout_s=PROGRAM_TIMEOUT_S, **variables):
    """What went wrong, in a few words, or None."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=TREE, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=output, start_new_session=True,
                                   env=dict(os.environ, **variables))
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Whatever the command has left behind goes with it.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    if code == 0:
        return None
    return "hangs" if code is None else first_failure(log) or f"exit code {code}"


def first_failure(log):
    """The name of the first test that failed, if the log has one."""
    text = log.read_text(encoding="utf-8", errors="replace")
    match = re.search(r"\[FAIL\] \w+::(\w+)|The test `\w+::(\w+)` crashed|^not ok (.*)", text,
                      re.MULTILINE)
    return next(filter(None, match.groups())) if match else None


def programs(pattern):
    return sorted(path.stem for path in TREE.glob(pattern))


def attack_programs(names, logs):
    """Builds and runs test programs, several at a time, until one fails: its name and why."""
    if not build(names, logs / "build.log"):
        raise BuildError(f"does not build: {logs / 'build.log'}")
    struck = None
    with ThreadPoolExecutor(JOBS) as pool:
        def attack(name):
            if struck is not None:
                return None
            why = run([str(BUILD / name)], logs / f"{name}.log")
            return None if why is None else f"{name}: {why}"
        for future in as_completed([pool.submit(attack, name) for name in sorted(names)]):
            if struck is None and future.result() is not None:
                struck = future.result()
    return struck


def attack_own(bug, logs):
    own = bug.own_test()
    return attack_programs([own], logs) if own else None


def attack_forest(bug, logs):
    return attack_programs(FOREST.difference([bug.own_test()]), logs)


def attack_tests(bug, logs):
    folder = "engine" if bug.file is None or bug.file.startswith("engine/") else "**"
    tests = set(programs(f"tests/{folder}/**/test_*.c")) | set(programs("tests/server/test_*.c"))
    return attack_programs(tests - FOREST - {bug.own_test()}, logs)


def attack_corpora(_bug, logs):
    return attack_programs([name for name in programs("tests/fuzz/fuzz_*.c")
                            if name != "fuzz_replay"], logs)


def has_program(name):
    return name in (TREE / "CMakeLists.txt").read_text(encoding="utf-8")


def attack_with(program, arguments, logs):
    """Runs a program of its own, if the tree has it."""
    if not has_program(program):
        return None
    if not build([program], logs / "build.log"):
        raise BuildError(f"does not build: {logs / 'build.log'}")
    why = run([str(BUILD / program), *arguments], logs / f"{program}.log")
    return None if why is None else f"{program}: {why}"


def attack_crash(_bug, logs):
    return attack_with("holt_crash_points", ["--processes", str(JOBS)], logs)


def attack_atlas(_bug, logs):
    return attack_with("holt_atlas", ["--quick", "--processes", str(JOBS)], logs)


def simulate(logs, chunks, seconds=None):
    """Gives chunks of seeds to the simulation until one fails, or the time is over."""
    if not has_program("holt_sim"):
        return None
    if not build(["holt_sim"], logs / "build.log"):
        raise BuildError(f"does not build: {logs / 'build.log'}")
    end = None if seconds is None else time.monotonic() + seconds
    struck = None
    seeds = 0

    def attack(first):
        nonlocal seeds
        if struck is not None or (end is not None and time.monotonic() > end):
            return None
        log = logs / f"holt_sim-{first}.log"
        why = run([str(BUILD / "holt_sim"), "--seeds", str(first), str(SIM_CHUNK)], log)
        text = log.read_text(encoding="utf-8", errors="replace")
        failed = re.search(r"^FAILED  seed (\d+)", text, re.MULTILINE)
        seeds += len(re.findall(r"^ok ", text, re.MULTILINE)) + (1 if failed else 0)
        return f"seed {failed.group(1)}" if failed else why

    with ThreadPoolExecutor(JOBS) as pool:
        for future in as_completed([pool.submit(attack, first) for first in chunks]):
            if struck is None and future.result() is not None:
                struck = f"{future.result()} (after {seeds})"
    return struck


def attack_sim(_bug, logs):
    return simulate(logs, range(1, SIM_SEEDS, SIM_CHUNK))


def attack_system(_bug, logs):
    targets = ["holt", "kill_client", "history_client", "fault_run", "counter_client"]
    if not build(targets, logs / "build.log"):
        raise BuildError(f"does not build: {logs / 'build.log'}")
    for script in SYSTEM:
        why = run([str(TREE / "tests" / "system" / script)], logs / f"{script}.log",
                  HOLT=str(BUILD / "holt"))
        if why is not None:
            return f"{script}: {why}"
    return None


def attack_soak(minutes):
    def attack(_bug, logs):
        chunks = (random.randrange(1 << 40) for _ in range(minutes * 60))
        return simulate(logs, chunks, minutes * 60)
    return attack


def judge(bug, detectors):
    """Which detector strikes, how, and after how many seconds (of that detector alone)."""
    logs = WORK / "logs" / bug.name
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    copy_tree()
    try:
        bug.plant(TREE)
        for name, attack in detectors:
            start = time.monotonic()
            struck = attack(bug, logs)
            seconds = time.monotonic() - start
            if struck is not None:
                return name, struck, seconds
    finally:
        copy_tree()
    return None, "nothing", 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--soak", type=int, default=10, metavar="MINUTES")
    parser.add_argument("--only", metavar="DETECTOR,...")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()

    problems = check()
    for problem in problems:
        print(problem)
    if options.check or problems:
        return 1 if problems else 0

    known = {bug.name: bug for bug in [NoBug(), *load()]}
    for name in options.names:
        if name not in known:
            print(f"planted: there is no {name}; there are: {' '.join(known)}", file=sys.stderr)
            return 2
    bugs = [known[name] for name in options.names] if options.names else load()
    detectors = [("own", attack_own), ("forest", attack_forest), ("tests", attack_tests),
                 ("corpora", attack_corpora), ("crash", attack_crash), ("atlas", attack_atlas),
                 ("sim", attack_sim), ("system", attack_system),
                 ("soak", attack_soak(options.soak))]
    if options.only:
        wanted = options.only.split(",")
        detectors = [detector for detector in detectors if detector[0] in wanted]

    WORK.mkdir(parents=True, exist_ok=True)
    copy_tree()
    configure(WORK / "configure.log")
    failed = 0
    print("| bug | caught by | s |\n|---|---|---|", flush=True)
    for bug in bugs:
        try:
            detector, struck, seconds = judge(bug, detectors)
        except BuildError as error:
            print(f"| {bug.name} | **{error}** | |", flush=True)
            failed += 1
            continue
        good = detector is None if bug.name == "none" else detector not in (None, "own")
        failed += not good
        text = {None: "**nothing**", "own": f"its own tests ({struck}): too easy"}.get(
            detector, f"{detector}: {struck}")
        print(f"| {bug.name} | {text} | {seconds:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
