#!/usr/bin/env python3
"""The package `holt` against a real daemon: python_client.py PID-OF-THE-DAEMON, socket in
$HOLT_SOCKET. Prints "ok NAME" or "not ok NAME" for each case."""

import asyncio
import contextlib
import inspect
import multiprocessing
import os
import pydoc
import signal
import subprocess
import sys
import threading
import time
import uuid

import holt

failed = False


def check(name, good, *why):
    global failed
    failed |= not good
    print(f"ok {name}" if good else f"not ok {name}")
    if not good:
        print(*(f"    {line!r}" for line in why), sep="\n")
    sys.stdout.flush()


def equal(name, got, wanted):
    check(name, got == wanted, got, wanted)


def raises(name, kind, call):
    try:
        call()
    except holt.Error as error:
        check(name, isinstance(error, kind), error)
        return error
    check(name, False, "no exception")
    return None


FIELDS = {"a_u8": holt.u8, "a_u16": holt.u16, "a_u32": holt.u32, "a_u64": holt.u64,
          "a_u128": holt.u128, "an_i8": holt.i8, "an_i16": holt.i16, "an_i32": holt.i32,
          "an_i64": holt.i64, "an_f32": holt.f32, "an_f64": holt.f64, "a_bool": holt.boolean,
          "a_time": holt.timestamp, "a_text": holt.text(10), "a_binary": holt.binary(4)}
EDGES = (
    {"a_u8": 255, "a_u16": 65535, "a_u32": 2**32 - 1, "a_u64": 2**64 - 1, "a_u128": 2**128 - 1,
     "an_i8": -128, "an_i16": -32768, "an_i32": -2**31, "an_i64": -2**63, "an_f32": 0.5,
     "an_f64": -1e300, "a_bool": True, "a_time": 2**63, "a_text": "äöü😀", "a_binary": b"\0\xff\0\1"},
    {"a_u8": 0, "a_u16": 0, "a_u32": 0, "a_u64": 0, "a_u128": 0, "an_i8": 127, "an_i16": 32767,
     "an_i32": 2**31 - 1, "an_i64": 2**63 - 1, "an_f32": float("inf"), "an_f64": 0.1,
     "a_bool": False, "a_time": 0, "a_text": "", "a_binary": b"\0\0\0\0"},
)
BAD = (("a_u8", 256), ("a_u8", -1), ("a_u64", 2**64), ("a_u128", 2**128), ("an_i8", 128),
       ("an_i8", -129), ("an_i64", 2**63), ("an_f32", 1e300), ("a_bool", 2), ("a_text", "x" * 11),
       ("a_text", "a\0b"), ("a_text", b"bytes"), ("a_binary", "text"), ("a_binary", b"12345"),
       ("a_u8", 1.5), ("an_f64", "1"), ("nothing", 1))


def every_type(store):
    store.create("all", FIELDS, {"text": holt.Index("a_text"),
                                 "pair": holt.Index("a_u8", "an_i64", unique=True, sparse=True)})
    groove = store.groove("all")
    equal("fields are told", groove.fields, FIELDS)
    equal("indexes are told", repr(groove.indexes["pair"]),
          "Index('a_u8', 'an_i64', unique=True, sparse=True)")
    for number, values in enumerate(EDGES, 1):
        groove.insert(number, **values)
        equal(f"values come back, {number}", groove[number].as_dict(), values)
    for field, value in BAD:
        try:
            groove.insert(3, **{field: value})
            check(f"{field} does not take {value!r}", False)
        except (ValueError, TypeError) as error:
            check(f"{field} does not take {value!r}", isinstance(error, holt.Error), error)
    check("nothing of these was written", 3 not in groove and len(groove) == 2)
    equal("a query over two fields", [one.id for one in groove.query("pair", a_u8=255, an_i64=-2**63)],
          [1])
    raises("a query that names other fields", holt.BadArgument, lambda: groove.query("pair", a_u8=1))
    raises("a query of no index", holt.UnknownIndex, lambda: groove.query("none", a_u8=1))
    one = uuid.uuid4()
    groove.insert(one, a_u8=7)
    equal("a UUID is an id", groove[one].id, one.int)
    raises("no id is zero", holt.OutOfRange, lambda: groove.insert(0))
    raises("a groove that exists", holt.GrooveExists, lambda: store.create("all", {"x": holt.u8}))
    raises("a bad description", holt.BadSchema, lambda: store.create("x y", {"x": holt.u8}))
    check("grooves have names", "all" in store.grooves())
    return groove


def events(store, groove):
    with store.write() as write:
        for id in range(100, 110):
            write.insert(groove, id, a_text="many", a_u8=id)
    stamps = [groove[id].timestamp for id in range(100, 110)]
    equal("timestamps of a write", stamps, [write.timestamp + i for i in range(10)])
    result = groove.query("text", a_text="many")
    equal("a result is a sequence", ([one.id for one in result[2:4]], result[-1].id, len(result)),
          ([102, 103], 109, 10))
    equal("a limit", len(groove.query("text", a_text="many", limit=3)), 3)
    equal("count", groove.count("text", a_text="many"), 10)
    check("a read names its commit", result.commit >= write.commit_number)

    def fail():
        with store.write() as broken:
            broken.insert(groove, 100, a_u8=1)
            broken.insert(groove, 200, a_u8=100)
            broken.remove(groove, 109)
            broken.remove(groove, 999)

    error = raises("failures are an exception", holt.Failures, fail)
    equal("which tells which", [(one.event, one.name) for one in error.failures],
          [(0, "EXISTS"), (1, "UNIQUE"), (3, "NOT_FOUND")])
    check("and the others took effect", 109 not in groove)
    old = groove[101]
    version = groove.update(old.replace(a_u16=1), if_unchanged=True)
    equal("an update is a new version", (groove[101].version, groove[101].timestamp),
          (version, old.timestamp))
    error = raises("an object that has changed since", holt.Failures,
                   lambda: groove.update(old.replace(a_u16=2), if_unchanged=True))
    equal("its guard says so", [one.name for one in error.failures], ["GUARD"])

    def chain():
        with store.write() as write:
            write.check(groove, 102, if_absent=True, linked=True)
            write.remove(groove, 103, linked=True)
            write.remove(groove, 104)
            write.remove(groove, 105)

    error = raises("a chain", holt.Failures, chain)
    equal("fails as a whole, and alone",
          [(one.event, one.name) for one in error.failures] +
          [id for id in range(102, 106) if id in groove],
          [(0, "GUARD"), (1, "LINKED"), (2, "LINKED"), 102, 103, 104])
    with contextlib.suppress(ZeroDivisionError):
        with store.write() as write:
            write.remove(groove, 102)
            write.remove(groove, 1 // 0)
    check("an exception in the block drops the write", 102 in groove)
    groove.remove(102)
    check("remove", 102 not in groove and groove.get(102, "none") == "none")
    try:
        groove[102]
        check("a missing id is a KeyError", False)
    except KeyError:
        check("a missing id is a KeyError", True)
    try:
        groove[101].a_u8 = 1
        check("objects do not change", False)
    except AttributeError:
        check("objects do not change", True)


def at_once(store, groove):
    futures = []
    for id in range(1000, 1200):
        write = store.write()
        write.upsert(groove, id, a_u64=id)
        futures.append(write.submit())
        del write # The future keeps what has to be kept.
    equal("200 writes under way", len({future.result(30).timestamp for future in futures}), 200)
    check("they shared messages", store.stats["joined"] > 0, store.stats)

    async def wait():
        write = store.write()
        write.insert(groove, 1000)
        try:
            await asyncio.wrap_future(write.submit())
        except holt.Failures as error:
            return error.failures[0].name
        return None

    equal("a future that asyncio waits for", asyncio.run(wait()), "EXISTS")

    lookups = [groove.submit_get(id, "none") for id in range(1100, 1300)]
    equal("200 lookups under way",
          [one if one == "none" else one.a_u64 for one in (future.result(30) for future in lookups)],
          [*range(1100, 1200), *["none"] * 100])
    equal("many ids in one", [one.id for one in groove.submit_get_many([1001, 7777, 1000]).result(30)],
          [1001, 1000])
    wanted = [one.id for one in groove.query("text", a_text="many")]
    queries = [groove.submit_query("text", a_text="many", limit=limit) for limit in (0, 1, 2)]
    equal("queries under way", [[one.id for one in future.result(30)] for future in queries],
          [wanted, wanted[:1], wanted[:2]])
    equal("counts under way", [groove.submit_count().result(30),
                               groove.submit_count("text", a_text="many").result(30)],
          [len(groove), len(wanted)])
    raises("a submitted query that names other fields", holt.BadArgument,
           lambda: groove.submit_query("pair", a_u8=1))
    raises("a submitted query of no index", holt.UnknownIndex,
           lambda: groove.submit_query("none", a_u8=1))
    raises("a submitted count of no index", holt.UnknownIndex,
           lambda: groove.submit_count("none", a_u8=1))
    raises("a submitted lookup of nothing", holt.BadArgument, lambda: groove.submit_get_many([]))
    raises("more ids than a request holds", holt.TooBig,
           lambda: groove.submit_get_many(range(1, 200000)))
    store.create("gone", {"x": holt.u8}, {"x": holt.Index("x")})
    gone = store.groove("gone")
    store.drop("gone")
    for name, future in (("get", gone.submit_get(1)), ("query", gone.submit_query("x", x=1)),
                         ("count", gone.submit_count())):
        raises(f"a submitted {name} that is refused", holt.UnknownGroove, future.result)
    called = threading.Event()
    future = groove.submit_get(1000)
    future.add_done_callback(lambda done: called.set())
    check("a callback is called", called.wait(30) and future.result().a_u64 == 1000)

    def work(first):
        for id in range(first, first + 50):
            groove.insert(id, a_u64=id)
            assert groove[id].a_u64 == id

    threads = [threading.Thread(target=work, args=(10**4 * i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal("eight threads", sum(i in groove for t in range(1, 9) for i in (10**4 * t, 10**4 * t + 49)),
          16)


UNDER_WAY = """
import holt, sys
store = holt.connect()
groove = store.groove("all")
for id in range(20000, 20100):
    write = store.write()
    write.insert(groove, id)
    write.submit()
    groove.submit_get(id)
print("left")
"""


def left_under_way():
    """A program that ends without closing, while answers are on their way."""
    ended = subprocess.run([sys.executable, "-c", UNDER_WAY], capture_output=True, timeout=60,
                           check=False, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    equal("a program may end while calls are under way",
          (ended.returncode, ended.stdout, ended.stderr), (0, b"left\n", b""))


def inherited(store, answer):
    try:
        store.ping()
        answer.put("it worked")
    except holt.Forked as error:
        answer.put(error.name)
    os._exit(0) # It has no business with the parent's objects.


def forked(store):
    answer = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=inherited, args=(store, answer))
    child.start()
    equal("a child of the process is told to connect anew", answer.get(), "FORKED")
    child.join()


def unknown(store, groove, pid):
    """The daemon is stopped while a write is under way."""
    before = len(groove)
    os.kill(pid, signal.SIGSTOP)
    write = store.write(deadline=0.2)
    write.insert(groove, 5000)
    started = time.monotonic()
    raises("no answer: the outcome is unknown", holt.OutcomeUnknown, write.commit)
    check("when the deadline came", 0.15 < time.monotonic() - started < 10)
    raises("a read just times out", holt.Timeout, lambda: groove.get(1, deadline=0.1))
    raises("and is still", holt.OutcomeUnknown, lambda: write.resolve(0.1))
    os.kill(pid, signal.SIGCONT)
    try: # It says what became of it: the daemon may have read it before it was stopped, or too late.
        write.resolve()
        there = 1
    except holt.Expired:
        there = 0
    equal("resolved: it says what happened", (5000 in groove, len(groove)), (there == 1, before + there))


def help_reads_well():
    text = pydoc.render_doc(holt, renderer=pydoc.plaintext)
    check("help(holt) begins with an example", "with holt.connect(" in text[:600], text[:600])
    bare = []
    for name in holt.__all__:
        thing = getattr(holt, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            bare += [name] if not thing.__doc__ else []
        if inspect.isclass(thing) and thing.__module__ == "holt":
            bare += [f"{name}.{method}" for method, value in vars(thing).items()
                     if not method.startswith("_") and not value.__doc__
                     and (inspect.isfunction(value) or isinstance(value, property))]
    equal("everything public says what it is", bare, [])
    unannotated = [f"{name}.{method}" for name in ("Client", "Groove", "Write", "Object", "Result")
                   for method, value in vars(getattr(holt, name)).items()
                   if inspect.isfunction(value) and "return" not in value.__annotations__]
    equal("and is typed", unannotated, [])


def main():
    pid = int(sys.argv[1])
    with holt.connect() as store:
        store.ping()
        check("a session", store.has_session and len(store.client_id) == 16)
        check("stat", store.stat()["version"] == store.daemon_version, store.daemon_version)
        groove = every_type(store)
        events(store, groove)
        at_once(store, groove)
        left_under_way()
        forked(store)
        unknown(store, groove, pid)
        store.drop("all")
        raises("a dropped groove", holt.UnknownGroove, lambda: store.groove("all"))
    raises("a closed client", holt.Closed, store.ping)
    raises("nobody there", holt.NoDaemon, lambda: holt.connect("/no/such/socket"))
    help_reads_well()


main()
sys.exit(failed)
