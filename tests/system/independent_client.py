#!/usr/bin/env python3
"""A client written from docs/protocol.md and nothing else, with a raw socket.

    independent_client.py MODE SOCKET [ARGUMENT...]

Each mode meets a daemon in one condition and prints "ok NAME" or "not ok NAME" for each thing that
the page promises. Results and results of events that were seen go to the file that $SEEN names, and
`independent_client.py table PAGE EXCEPTION...` compares them with the tables of the page: every
documented number must have been seen, but the exceptions."""

import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time

(HELLO, PING, STAT, SCHEMA, CREATE_GROOVE, DROP_GROOVE, WRITE, LOOKUP, QUERY, COUNT, OPEN_SESSION,
 CLOSE_SESSION) = range(1, 13)
(OK, BAD_MAGIC, BAD_VERSION, BAD_HEADER, BAD_OPERATION, BAD_BODY, TOO_BIG, UNKNOWN_GROOVE,
 UNKNOWN_INDEX, GROOVE_EXISTS, BAD_SCHEMA, LIMIT, BUSY, FULL, READ_ONLY, CORRUPT, SHUTTING_DOWN,
 STALE_SCHEMA, EXPIRED, DENIED, INTERNAL, OVERTAKEN, BUDGET, NO_SESSION, STALE_NUMBER, BAD_LANE,
 LANE_BUSY) = range(27)
INSERT, UPSERT, UPDATE, REMOVE, CHECK = range(1, 6)
GUARD_NONE, GUARD_ABSENT, GUARD_PRESENT, GUARD_VERSION = range(4)
EXISTS, NOT_FOUND, ID_ZERO, UNIQUE, RESERVED_NOT_ZERO, BAD_VALUE, EVENT_CORRUPT, GUARD, LINKED = (
    range(1, 10))
SESSIONS, CHAINS = 1, 2
ATOMIC = 1
U8, U32, U64, I32, F64, BOOL, BYTES, TEXT, TIMESTAMP = 1, 3, 4, 8, 11, 12, 13, 14, 15
ANONYMOUS = bytes(16)

failed = False


def check(name, good, *why):
    global failed
    if good:
        print(f"ok {name}")
    else:
        failed = True
        print(f"not ok {name}")
        for line in why:
            print(f"    {line}")
    sys.stdout.flush()
    return good


def equal(name, got, wanted):
    return check(name, got == wanted, f"got {got!r}", f"wanted {wanted!r}")


def saw(kind, number):
    if "SEEN" in os.environ:
        with open(os.environ["SEEN"], "a", encoding="ascii") as file:
            file.write(f"{kind} {number}\n")


# ---- Section 1: the envelope ----------------------------------------------------------------------

class Lost(Exception):
    pass


class Connection:
    def __init__(self, path, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.socket.sendall(b"\0SP\0\0\x30\0\0")
        if self.receive_bytes(8) != b"\0SP\0\0\x31\0\0":
            raise Lost("not Holt")
        self.request_id = 0

    def close(self):
        self.socket.close()

    def receive_bytes(self, size):
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Lost("connection lost")
            data += piece
        return data

    def send(self, message):
        """Returns the request id."""
        self.request_id += 1
        envelope = struct.pack(">BQI", 1, 4 + len(message), 1 << 31 | self.request_id)
        try:
            self.socket.sendall(envelope + message)
        except (BrokenPipeError, ConnectionResetError):
            raise Lost("connection lost") from None
        return self.request_id

    def receive(self):
        mark, size, request_id = struct.unpack(">BQI", self.receive_bytes(13))
        assert mark == 1 and request_id >> 31 == 1
        return request_id & 0x7fffffff, Reply(self.receive_bytes(size - 4))

    def exchange(self, message):
        request_id = self.send(message)
        got_id, reply = self.receive()
        assert got_id == request_id, "one question, one answer"
        return reply


# ---- Section 2: headers ---------------------------------------------------------------------------

class Reply:
    def __init__(self, message):
        self.bytes = message
        (magic, self.version, self.operation, self.number, self.result, body_size, self.commit,
         self.timestamp, self.retry_after_ms) = struct.unpack_from("<4sHHQIIQQI", message)
        assert magic == b"HOLT" and len(message) == 64 + body_size
        self.body = message[64:]
        saw("result", self.result)
        if self.result != OK:
            assert len(self.body) <= 1024 and b"\0" not in self.body
            self.body.decode()


def request(operation, body=b"", number=1, client_id=ANONYMOUS, lane=0, deadline_ms=0, flags=0,
            magic=b"HOLT", version=1, body_size=None, zero=bytes(16)):
    return struct.pack("<4sHHQ16sIIII16s", magic, version, operation, number, client_id, lane,
                       deadline_ms, len(body) if body_size is None else body_size, flags,
                       zero) + body


class Client:
    def __init__(self, path):
        self.path = path
        self.connection = Connection(path)
        self.number = 0
        hello = self.call(HELLO)
        (self.features, self.message_size_max, self.batch_size_max, self.batch_event_max,
         self.exchange_count, self.session_failure_max, _, version) = struct.unpack(
             "<QIIIIII32s", hello.body)
        self.version = version.rstrip(b"\0").decode()

    def call(self, operation, body=b"", **options):
        if "number" not in options:
            self.number += 1
            options["number"] = self.number
        reply = self.connection.exchange(request(operation, body, **options))
        assert (reply.version, reply.operation, reply.number) == (1, operation, options["number"])
        return reply

    def close(self):
        self.connection.close()


# ---- Section 4: bodies ----------------------------------------------------------------------------

def name_bytes(name):
    return name.encode().ljust(32, b"\0")


def groove_spec(name, fields, indexes=()):
    """fields: (name, type, size); indexes: (name, flags, positions)."""
    body = name_bytes(name) + struct.pack("<II", len(fields), len(indexes))
    for field_name, field_type, size in fields:
        body += struct.pack("<32sB3xI", name_bytes(field_name), field_type, size)
    body = body.ljust(1320, b"\0")
    for index_name, flags, positions in indexes:
        body += struct.pack("<32sBB4s2x", name_bytes(index_name), len(positions), flags,
                            bytes(positions).ljust(4, b"\0"))
    return body.ljust(1960, b"\0")


class Groove:
    """One of the grooves of a schema reply."""

    def __init__(self, body, at):
        (name, self.id, self.object_size, self.event_count_max, field_count, index_count, _,
         self.object_count) = struct.unpack_from("<32sIIIIIIQ", body, at)
        self.name = name.rstrip(b"\0").decode()
        self.fields = {}
        self.indexes = {}
        at += 64
        for _ in range(field_count):
            name, kind, size, offset, _ = struct.unpack_from("<32sB3xIII", body, at)
            self.fields[name.rstrip(b"\0").decode()] = (kind, size, offset)
            at += 48
        for _ in range(index_count):
            name, index_id, count, flags, positions = struct.unpack_from("<32sIBB4s6x", body, at)
            self.indexes[name.rstrip(b"\0").decode()] = (index_id, flags, positions[:count])
            at += 48
        self.end = at

    def object(self, id, **values):
        """The bytes of an object, from bytes by field name."""
        image = bytearray(self.object_size)
        image[0:16] = id.to_bytes(16, "little")
        for name, value in values.items():
            _, size, offset = self.fields[name]
            assert len(value) <= size
            image[offset:offset + len(value)] = value
        return bytes(image)

    def field(self, image, name):
        _, size, offset = self.fields[name]
        return image[offset:offset + size]


def grooves(client):
    body = client.call(SCHEMA).body
    count, _ = struct.unpack_from("<II", body)
    found = {}
    at = 8
    for _ in range(count):
        groove = Groove(body, at)
        found[groove.name] = groove
        at = groove.end
    assert at == len(body)
    return found


def id_bytes(id):
    return id.to_bytes(16, "little")


def lookup(groove_id, ids):
    return struct.pack("<II", groove_id, len(ids)) + b"".join(map(id_bytes, ids))


def query(groove_id, index_id, key=b"", limit=0, flags=0, key_size=None):
    return struct.pack("<IIIIII", groove_id, index_id, limit, flags,
                       len(key) if key_size is None else key_size, 0) + key


def objects(reply):
    count, size, _ = struct.unpack_from("<IIQ", reply.body)
    assert len(reply.body) == 16 + count * size
    return [reply.body[16 + i * size:16 + (i + 1) * size] for i in range(count)]


def section(groove_id, event_type, payloads, flags=0, guard=GUARD_NONE, count=None, zero=0,
            zero_2=0):
    return struct.pack("<IBBBBII", groove_id, event_type, flags, guard, zero,
                       len(payloads) if count is None else count, zero_2) + b"".join(payloads)


def failures(reply):
    assert reply.result == OK, reply.body
    count, total = struct.unpack_from("<II", reply.body)
    assert len(reply.body) == 8 + 8 * count and total >= count
    listed = [struct.unpack_from("<II", reply.body, 8 + 8 * i) for i in range(count)]
    for _, result in listed:
        saw("event", result)
    assert [index for index, _ in listed] == sorted({index for index, _ in listed})
    return listed


ITEM_FIELDS = [("amount", U64, 0), ("flag", BOOL, 0), ("label", TEXT, 12), ("key", U32, 0),
               ("price", F64, 8), ("raw", BYTES, 101)]
ITEM_INDEXES = [("by_label", 0, [2]), ("by_flag_amount", 2, [1, 0]), ("by_key", 1 | 2, [3])]


def item_groove(client, name="item"):
    """The groove, made if it is not there."""
    spec = groove_spec(name, ITEM_FIELDS, ITEM_INDEXES)
    reply = client.call(CREATE_GROOVE, spec)
    for _ in range(100):
        if reply.result != LIMIT:
            break
        time.sleep(0.3)  # What was dropped gives its trees back in the daemon's idle moments.
        reply = client.call(CREATE_GROOVE, spec)
    assert reply.result in (OK, GROOVE_EXISTS), reply.body
    return grooves(client)[name]


def item(groove, id, amount=0, label=b"", key=0, flag=0):
    return groove.object(id, amount=struct.pack("<Q", amount), label=label,
                         key=struct.pack("<I", key), flag=bytes([flag]))


# ---- Modes ----------------------------------------------------------------------------------------

def mode_main(path):
    """A daemon as it is by default, on a new file."""
    client = Client(path)
    check("HELLO", client.version and client.batch_event_max > 0 and
          64 + client.batch_size_max <= client.message_size_max and client.exchange_count > 0)
    equal("features", client.features & (SESSIONS | CHAINS), SESSIONS | CHAINS)
    equal("PING", client.call(PING, b"\0any\xff").body, b"\0any\xff")
    equal("an empty PING", client.call(PING).body, b"")
    check("STAT is an object of JSON", isinstance(json.loads(client.call(STAT).body), dict))
    equal("no groove yet", grooves(client), {})
    envelopes(path)
    headers(client)
    bad_bodies(client)
    schemas(client)
    item_groove(client)
    writes(client)
    reads(client)
    limits(client)
    expired(client)
    chains(client)
    sessions(client)
    drops(client)
    tree_limit(client)
    client.close()


def hangs_up(connection):
    try:
        while True:
            connection.receive()
    except Lost:
        return True
    except TimeoutError:
        return False


def envelopes(path):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(path)
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b"?"
        try:
            while data:
                data = stranger.recv(100)
        except ConnectionResetError:
            data = b""
        check("a stranger is hung up on", data == b"")
    client = Client(path)
    client.connection.socket.sendall(struct.pack(">BQI", 1, 5 + client.message_size_max, 1 << 31))
    check("a message that is too long ends the connection", hangs_up(client.connection))
    client.close()
    connection = Connection(path)
    connection.socket.sendall(struct.pack(">BQH", 1, 2, 0))
    check("so does one shorter than its request id", hangs_up(connection))
    connection.close()
    connection = Connection(path)
    sent = {connection.send(request(PING, bytes([i]), number=100 + i)): i for i in range(20)}
    got = {}
    for _ in sent:
        request_id, reply = connection.receive()
        assert reply.number == 100 + reply.body[0]
        got[request_id] = reply.body[0]
    equal("20 requests sent before their replies are read", got, sent)
    connection.close()


def headers(client):
    raw = client.connection.exchange

    def results(*messages):
        return [raw(message).result for message in messages]

    equal("BAD_MAGIC", results(request(PING, magic=b"TLOH"), b"", b"HOLT", request(PING)[:15]),
          [BAD_MAGIC] * 4)
    reply = raw(request(PING, magic=b"HOLD", number=9))
    equal("number and operation are 0 after BAD_MAGIC", (reply.operation, reply.number), (0, 0))
    reply = raw(request(PING, version=2, number=77))
    equal("BAD_VERSION tells the daemon's version",
          (reply.result, reply.version, reply.operation, reply.number), (BAD_VERSION, 1, PING, 77))
    equal("16 bytes are enough to be told BAD_VERSION",
          results(request(PING, version=999)[:16]), [BAD_VERSION])
    equal("BAD_HEADER",
          results(request(PING, b"xy", body_size=1), request(PING, body_size=4000000000),
                  request(PING, flags=2), request(PING, flags=ATOMIC), request(PING, flags=1 << 31),
                  request(PING, zero=bytes(15) + b"\1"), request(PING)[:63], request(PING)[:16]),
          [BAD_HEADER] * 8)
    equal("BAD_OPERATION", results(request(0), request(13), request(65535, b"abc")),
          [BAD_OPERATION] * 3)
    reply = raw(request(65535, number=12345))
    equal("a refusal carries number and operation", (reply.operation, reply.number), (65535, 12345))
    equal("what only reads ignores client_id and lane",
          results(request(PING, client_id=b"x" * 16, lane=99, number=0)), [OK])


def bad_bodies(client):
    bad = [(HELLO, b"x"), (STAT, b"x"), (SCHEMA, b"x"), (CREATE_GROOVE, bytes(1959)),
           (CREATE_GROOVE, bytes(1961)), (DROP_GROOVE, bytes(31)), (WRITE, b""),
           (WRITE, bytes(15)), (LOOKUP, bytes(7)), (LOOKUP, lookup(0, [])),
           (LOOKUP, lookup(0, [1])[:-1]), (LOOKUP, lookup(0, [1]) + b"x"), (QUERY, bytes(23)),
           (QUERY, query(0, 0, b"abc", key_size=4)), (QUERY, query(0, 0, flags=1)),
           (COUNT, query(0, 0xffffffff, limit=1)), (COUNT, query(0, 0xffffffff, b"k"))]
    equal("BAD_BODY", [client.call(op, body).result for op, body in bad], [BAD_BODY] * len(bad))


def schemas(client):
    def create(name, fields, indexes=()):
        return client.call(CREATE_GROOVE, groove_spec(name, fields, indexes))

    reply = client.call(CREATE_GROOVE, groove_spec("item", ITEM_FIELDS, ITEM_INDEXES))
    groove = grooves(client).get("item")
    check("CREATE_GROOVE", reply.result == OK and groove is not None and
          struct.unpack("<II", reply.body) == (groove.id, groove.object_size))
    check("a commit and a timestamp", reply.commit > 0 and reply.timestamp > 10**18)
    equal("SCHEMA gives types and sizes",
          {name: field[:2] for name, field in groove.fields.items()},
          {"amount": (U64, 8), "flag": (BOOL, 1), "label": (TEXT, 12), "key": (U32, 4),
           "price": (F64, 8), "raw": (BYTES, 101)})
    at = 32
    offsets = {}
    for name, kind, _ in ITEM_FIELDS: # Each at the next multiple of its size, at most 8.
        size = groove.fields[name][1]
        step = 1 if kind in (BOOL, BYTES, TEXT) else min(size, 8)
        at = (at + step - 1) // step * step
        offsets[name] = at
        at += size
    equal("offsets are as the page says", {n: f[2] for n, f in groove.fields.items()}, offsets)
    equal("so is the object's size", groove.object_size, (at + 7) // 8 * 8)
    equal("indexes, in their order", list(groove.indexes.items()),
          [(name, (i, flags, bytes(positions)))
           for i, (name, flags, positions) in enumerate(ITEM_INDEXES)])
    equal("GROOVE_EXISTS", create("item", [("a", U8, 0)]).result, GROOVE_EXISTS)
    bad = [("", [("a", U8, 0)], ()), ("1x", [("a", U8, 0)], ()), ("x y", [("a", U8, 0)], ()),
           ("x", [("id", U8, 0)], ()), ("x", [("version", U8, 0)], ()), ("x", [("a", 16, 0)], ()),
           ("x", [("a", 0, 0)], ()), ("x", [("a", U8, 0), ("a", U8, 0)], ()),
           ("x", [("a", TEXT, 0)], ()), ("x", [("a", U64, 4)], ()),
           ("x", [("a", BYTES, 4096)], ()), ("x", [("a", U8, 0)], [("i", 0, [1])]),
           ("x", [("a", U8, 0)], [("i", 4, [0])]), ("x", [("a", U8, 0)], [("i", 0, [])]),
           ("x", [("a", BYTES, 25)], [("i", 1, [0])]),
           ("x", [("a", BYTES, 20), ("b", U64, 0)], [("i", 0, [0, 1])]),
           ("x", [("a", U8, 0)], [("i", 0, [0]), ("i", 0, [0])])]
    replies = [create(*spec) for spec in bad]
    equal("BAD_SCHEMA", [reply.result for reply in replies], [BAD_SCHEMA] * len(bad))
    check("its text says why", all(reply.body for reply in replies))
    spec = bytearray(groove_spec("x", [("a", U8, 0)]))
    spec[1959] = 1
    equal("what is unused in a groove_spec is zero", client.call(CREATE_GROOVE, spec).result,
          BAD_SCHEMA)
    equal("UNKNOWN_GROOVE of a name", client.call(DROP_GROOVE, name_bytes("nothing")).result,
          UNKNOWN_GROOVE)
    check("a groove with no field", create("bare", []).result == OK and
          grooves(client)["bare"].object_size == 32)


def writes(client):
    groove = grooves(client)["item"]

    def write(*sections, **options):
        return client.call(WRITE, b"".join(sections), **options)

    reply = write(section(groove.id, INSERT, [item(groove, i, 10 * i, b"one", i)
                                              for i in range(1, 6)]))
    equal("INSERT", failures(reply), [])
    first = reply
    image, = objects(client.call(LOOKUP, lookup(groove.id, [4])))
    wanted = item(groove, 4, 40, b"one", 4)
    equal("LOOKUP gives back what was written", image[:16] + image[32:], wanted[:16] + wanted[32:])
    stamp = reply.timestamp + 3
    equal("event n has the timestamp of its reply + n", struct.unpack_from("<QQ", image, 16),
          (stamp, stamp))
    reply = write(section(groove.id, INSERT, [item(groove, 1), item(groove, 6, key=3),
                                              item(groove, 0), item(groove, 7, key=7)]),
                  section(groove.id, UPDATE, [item(groove, 99), item(groove, 4, 41, b"two", 4)]),
                  section(groove.id, UPSERT, [item(groove, 5, 51, b"two", 5),
                                              item(groove, 8, 81, b"two", 8)]),
                  section(groove.id, REMOVE, [id_bytes(98), id_bytes(0), id_bytes(3)]))
    equal("failures, and only they, travel back", failures(reply),
          [(0, EXISTS), (1, UNIQUE), (2, ID_ZERO), (4, NOT_FOUND), (8, NOT_FOUND), (9, ID_ZERO)])
    equal("failure_total is their number", struct.unpack_from("<II", reply.body), (6, 6))
    check("commits and timestamps increase", reply.commit > first.commit and
          reply.timestamp >= first.timestamp + 5)
    image, = objects(client.call(LOOKUP, lookup(groove.id, [4])))
    equal("an update keeps the timestamp and moves the version",
          struct.unpack_from("<QQ", image, 16), (stamp, reply.timestamp + 5))
    stamped = bytearray(item(groove, 20))
    stamped[16] = 1
    untidy = bytearray(item(groove, 21))
    untidy[-1] = 1
    reply = write(section(groove.id, INSERT,
                          [bytes(stamped), item(groove, 22, flag=2), item(groove, 23, label=b"\xff"),
                           item(groove, 24, label=b"a\0b"), bytes(untidy), item(groove, 25)]))
    covered = max(offset + size for _, size, offset in groove.fields.values())
    wanted = [(0, RESERVED_NOT_ZERO), (1, BAD_VALUE), (2, BAD_VALUE), (3, BAD_VALUE)]
    if covered < groove.object_size:
        wanted.append((4, BAD_VALUE))
    equal("values that are not of their type", failures(reply), wanted)
    reply = write(section(groove.id, INSERT, [item(groove, 30), item(groove, 30)]),
                  section(groove.id, REMOVE, [id_bytes(30)]),
                  section(groove.id, INSERT, [item(groove, 30)]))
    equal("events take effect in order, each seeing those before it", failures(reply),
          [(1, EXISTS)])
    reply = write(section(groove.id, UPDATE, [item(groove, 4, key=1000), item(groove, 25, key=4)]))
    equal("a unique value is free as soon as an event gave it up", failures(reply), [])
    bad = [section(groove.id, 0, [id_bytes(1)]), section(groove.id, 6, [id_bytes(1)]),
           section(groove.id, REMOVE, [id_bytes(1)], flags=2),
           section(groove.id, REMOVE, [id_bytes(1)], guard=4),
           section(groove.id, REMOVE, [id_bytes(1)], zero=1),
           section(groove.id, REMOVE, [id_bytes(1)], zero_2=1), section(groove.id, REMOVE, []),
           section(groove.id, INSERT, [item(groove, 50)[:-8]]),
           section(groove.id, INSERT, [item(groove, 50) + b"x"]),
           section(groove.id, REMOVE, [id_bytes(1)], count=2),
           section(groove.id, REMOVE, [id_bytes(1)], count=0xffffffff),
           section(groove.id, REMOVE, [id_bytes(1)]) + b"tail",
           section(groove.id, REMOVE, [id_bytes(1)]) + section(groove.id, REMOVE, [])]
    equal("BAD_BODY of a WRITE", [write(body).result for body in bad], [BAD_BODY] * len(bad))
    equal("UNKNOWN_GROOVE of a WRITE", write(section(4444, REMOVE, [id_bytes(1)])).result,
          UNKNOWN_GROOVE)
    equal("refused requests had no effect",
          len(objects(client.call(LOOKUP, lookup(groove.id, [1, 50])))), 1)


def reads(client):
    groove = grooves(client)["item"]
    reply = client.call(LOOKUP, lookup(groove.id, [8, 777, 1, 8]))
    equal("LOOKUP: those found, in the order of the ids",
          [int.from_bytes(image[:16], "little") for image in objects(reply)], [8, 1, 8])
    check("a read names the commit that it saw", reply.commit > 0 and reply.timestamp == 0)
    equal("LOOKUP of nothing", objects(client.call(LOOKUP, lookup(groove.id, [777]))), [])
    equal("a zero id in a LOOKUP", client.call(LOOKUP, lookup(groove.id, [1, 0])).result, BAD_BODY)
    label = groove.indexes["by_label"][0]
    two = b"two".ljust(12, b"\0")
    found = objects(client.call(QUERY, query(groove.id, label, two)))
    equal("QUERY: every object with the value", {bytes(groove.field(i, "label")) for i in found},
          {two})
    times = [struct.unpack_from("<Q", image, 16)[0] for image in found]
    check("in order of timestamp", len(found) == 2 and times == sorted(times))
    equal("with a limit", objects(client.call(QUERY, query(groove.id, label, two, limit=1))),
          found[:1])
    count, = struct.unpack("<Q", client.call(COUNT, query(groove.id, label, two)).body)
    equal("COUNT", count, 2)
    whole, = struct.unpack("<Q", client.call(COUNT, query(groove.id, 0xffffffff)).body)
    equal("COUNT of the whole groove", whole, grooves(client)["item"].object_count)
    pair = groove.indexes["by_flag_amount"][0]
    write = section(groove.id, INSERT, [item(groove, 60, 7, flag=1), item(groove, 61, 7, flag=0)])
    equal("objects for the next", failures(client.call(WRITE, write)), [])
    key = b"\1" + struct.pack("<Q", 7)
    equal("a key is its fields one behind another, as in an object",
          [image[0] for image in objects(client.call(QUERY, query(groove.id, pair, key)))], [60])
    zero = b"\0" + struct.pack("<Q", 7)
    equal("a sparse index leaves out what is zero",
          objects(client.call(QUERY, query(groove.id, pair, zero))), [])
    equal("a key of another length",
          [client.call(op, query(groove.id, pair, key[:-1])).result for op in (QUERY, COUNT)],
          [BAD_BODY] * 2)
    equal("UNKNOWN_INDEX", [client.call(op, query(groove.id, 3, key)).result
                            for op in (QUERY, COUNT)], [UNKNOWN_INDEX] * 2)
    equal("a QUERY of the whole groove", client.call(QUERY, query(groove.id, 0xffffffff)).result,
          BAD_BODY)
    equal("UNKNOWN_GROOVE of reads",
          [client.call(LOOKUP, lookup(4444, [1])).result,
           client.call(QUERY, query(4444, 0, key)).result,
           client.call(COUNT, query(4444, 0xffffffff)).result], [UNKNOWN_GROOVE] * 3)


def limits(client):
    groove = grooves(client)["item"]
    ids_max = (client.message_size_max - 64 - 8) // 16
    equal("TOO_BIG: more ids than a reply could answer",
          client.call(LOOKUP, lookup(groove.id, range(1, ids_max + 1))).result, TOO_BIG)
    many = [id_bytes(10**9 + i) for i in range((client.batch_size_max - 16) // 16 + 1)]
    if 64 + 16 + 16 * len(many) <= client.message_size_max:
        equal("TOO_BIG: more bytes than a WRITE may have",
              client.call(WRITE, section(groove.id, REMOVE, many)).result, TOO_BIG)
    most = groove.event_count_max
    if 16 + 16 * (most + 1) <= client.batch_size_max:
        equal("TOO_BIG: more events than the groove allows",
              client.call(WRITE, section(groove.id, REMOVE, many[:most + 1])).result, TOO_BIG)
    equal("and as many as it allows",
          len(failures(client.call(WRITE, section(
              groove.id, REMOVE,
              many[:min(most, client.batch_event_max, (client.batch_size_max - 16) // 16)])))) > 0,
          True)


def expired(client):
    """Work is put before requests that have a millisecond."""
    groove = grooves(client)["item"]
    ids = list(range(10**6, 10**6 + min(groove.event_count_max, 2000)))
    load = section(groove.id, UPSERT, [item(groove, i) for i in ids])
    for _ in range(50):
        connection = Connection(client.path)
        sent = []
        for _ in range(6):
            connection.send(request(WRITE, load))
            sent.append(connection.send(request(WRITE, section(groove.id, REMOVE, [id_bytes(1)]),
                                                deadline_ms=1)))
        results = {}
        for _ in range(12):
            request_id, reply = connection.receive()
            results[request_id] = reply.result
        connection.close()
        if EXPIRED in [results[request_id] for request_id in sent]:
            break
    check("EXPIRED", EXPIRED in results.values(), results)
    equal("a deadline that is not reached changes nothing",
          client.call(PING, deadline_ms=60000).result, OK)
    client.call(WRITE, section(groove.id, REMOVE, [id_bytes(i) for i in ids]))


def chains(client):
    groove = grooves(client)["item"]
    other = grooves(client)["bare"]

    def write(*sections, **options):
        return client.call(WRITE, b"".join(sections), **options)

    def one(id, amount=0):
        return item(groove, id, amount)

    def amount(id):
        found = objects(client.call(LOOKUP, lookup(groove.id, [id])))
        return struct.unpack("<Q", groove.field(found[0], "amount"))[0] if found else None

    def versioned(version, payload):
        return struct.pack("<Q", version) + payload

    reply = write(section(groove.id, UPSERT, [one(101, 1), one(102, 2)]))
    version = reply.timestamp
    reply = write(section(groove.id, UPSERT, [one(101, 5), one(103, 5)], guard=GUARD_ABSENT),
                  section(groove.id, UPSERT, [one(102, 6), one(104, 6)], guard=GUARD_PRESENT),
                  section(groove.id, UPDATE, [versioned(version, one(101, 7)),
                                              versioned(version, one(102, 7)),
                                              versioned(version, one(999, 7))],
                          guard=GUARD_VERSION),
                  section(groove.id, CHECK, [id_bytes(101), id_bytes(105)], guard=GUARD_PRESENT),
                  section(groove.id, REMOVE, [versioned(1, id_bytes(101))], guard=GUARD_VERSION))
    equal("guards", failures(reply), [(0, GUARD), (3, GUARD), (5, GUARD), (6, GUARD), (8, GUARD),
                                      (9, GUARD)])
    equal("compare and set", (amount(101), amount(102), amount(103), amount(104)), (7, 6, 5, None))
    reply = write(section(groove.id, UPDATE, [versioned(reply.timestamp + 4, one(101, 8))],
                          guard=GUARD_VERSION))
    equal("whoever wrote an object knows its version", (failures(reply), amount(101)), ([], 8))

    reply = write(section(groove.id, INSERT, [one(110), one(111)], flags=1),
                  section(other.id, INSERT, [other.object(1)], flags=1),
                  section(groove.id, INSERT, [one(101), one(112)]),
                  section(groove.id, INSERT, [one(113)]))
    equal("a chain over grooves happens wholly or not at all", failures(reply),
          [(0, LINKED), (1, LINKED), (2, LINKED), (3, EXISTS)])
    equal("what follows a chain goes on",
          [amount(i) for i in (110, 111, 112, 113)], [None, None, 0, 0])
    equal("a chain leaves no trace in another groove",
          objects(client.call(LOOKUP, lookup(other.id, [1]))), [])
    reply = write(section(groove.id, INSERT, [one(110)], flags=1),
                  section(other.id, INSERT, [other.object(1)]))
    equal("a whole chain", (failures(reply), amount(110),
                            len(objects(client.call(LOOKUP, lookup(other.id, [1]))))), ([], 0, 1))
    reply = write(section(groove.id, INSERT, [one(120), one(121)]),
                  section(groove.id, REMOVE, [id_bytes(7777)]),
                  section(groove.id, INSERT, [one(122)]), flags=ATOMIC)
    equal("an atomic request that fails", failures(reply),
          [(0, LINKED), (1, LINKED), (2, NOT_FOUND), (3, LINKED)])
    equal("leaves nothing", [amount(i) for i in (120, 121, 122)], [None] * 3)
    reply = write(section(groove.id, INSERT, [one(120), one(121)]), flags=ATOMIC)
    equal("and one that does not, all", (failures(reply), amount(121)), ([], 0))
    equal("a check in front of a write",
          failures(write(section(groove.id, CHECK, [id_bytes(120)], flags=1, guard=GUARD_ABSENT),
                         section(groove.id, REMOVE, [id_bytes(121)]))),
          [(0, GUARD), (1, LINKED)])
    bad = [section(groove.id, INSERT, [one(130)], flags=1),
           section(groove.id, CHECK, [id_bytes(1)]),
           section(groove.id, REMOVE, [id_bytes(1)], guard=GUARD_VERSION)]
    equal("BAD_BODY of chains and guards", [write(body).result for body in bad],
          [BAD_BODY] * len(bad))


def open_session(client, client_id, lanes):
    reply = client.call(OPEN_SESSION, struct.pack("<I12x", lanes), client_id=client_id)
    if reply.result != OK:
        return reply, None, None
    count, _ = struct.unpack_from("<II", reply.body)
    return reply, count, list(struct.unpack(f"<{count}Q", reply.body[8:]))


def sessions(client):
    groove = grooves(client)["item"]
    me = os.urandom(16)
    add = section(groove.id, INSERT, [item(groove, 200)])
    equal("NO_SESSION", [client.call(WRITE, add, client_id=me, number=1).result,
                         client.call(CLOSE_SESSION, client_id=me).result], [NO_SESSION] * 2)
    equal("BAD_BODY of OPEN_SESSION",
          [client.call(OPEN_SESSION, body, client_id=who).result for who, body in
           ((me, struct.pack("<I12x", 0)), (me, struct.pack("<I12x", 65)),
            (me, struct.pack("<I12s", 1, b"x")), (me, b""), (ANONYMOUS, struct.pack("<I12x", 1)))],
          [BAD_BODY] * 5)
    reply, count, lanes = open_session(client, me, 3)
    equal("OPEN_SESSION", (count, lanes), (3, [0, 0, 0]))
    check("it is a write", reply.commit > 0)
    reply, count, lanes = open_session(client, me, 5)
    equal("a session that exists is told as it is", (count, lanes, reply.commit), (3, [0, 0, 0], 0))
    first = client.call(WRITE, add, client_id=me, lane=1, number=10)
    equal("a numbered write", failures(first), [])
    again = client.call(WRITE, add, client_id=me, lane=1, number=10)
    equal("the same number gets the same reply, byte for byte", again.bytes, first.bytes)
    other = Client(client.path)
    equal("on another connection, too",
          other.call(WRITE, add, client_id=me, lane=1, number=10).bytes, first.bytes)
    equal("STALE_NUMBER", client.call(WRITE, add, client_id=me, lane=1, number=9).result,
          STALE_NUMBER)
    equal("BAD_LANE", [client.call(WRITE, add, client_id=me, lane=3, number=1).result,
                       client.call(WRITE, add, client_id=me, lane=0, number=0).result],
          [BAD_LANE] * 2)
    equal("lanes have numbers of their own",
          failures(client.call(WRITE, add, client_id=me, lane=2, number=1)), [(0, EXISTS)])
    equal("a session tells how far each lane came", open_session(client, me, 1)[1:],
          (3, [0, 10, 1]))
    spec = groove_spec("numbered", [("a", U8, 0)])
    created = client.call(CREATE_GROOVE, spec, client_id=me, lane=0, number=1)
    equal("a numbered CREATE_GROOVE", (created.result,
                                       client.call(CREATE_GROOVE, spec, client_id=me, lane=0,
                                                   number=1).bytes), (OK, created.bytes))
    name = name_bytes("numbered")
    dropped = client.call(DROP_GROOVE, name, client_id=me, lane=0, number=2)
    equal("a numbered DROP_GROOVE",
          (dropped.result, client.call(DROP_GROOVE, name, client_id=me, lane=0, number=2).bytes),
          (OK, dropped.bytes))
    refusal = section(4444, REMOVE, [id_bytes(1)])
    equal("a refused number stays refused",
          [client.call(WRITE, body, client_id=me, lane=2, number=2).result
           for body in (refusal, refusal)], [UNKNOWN_GROOVE] * 2)
    equal("and the next one counts", failures(client.call(
        WRITE, section(groove.id, REMOVE, [id_bytes(200)]), client_id=me, lane=2, number=3)), [])
    many = min(client.session_failure_max + 10, groove.event_count_max)
    if many > client.session_failure_max:
        reply = client.call(WRITE, section(groove.id, REMOVE,
                                           [id_bytes(10**7 + i) for i in range(many)]),
                            client_id=me, lane=2, number=4)
        failures(reply)
        equal("at most session_failure_max failures are listed",
              struct.unpack_from("<II", reply.body), (client.session_failure_max, many))
    lane_busy(client, me, groove)
    equal("CLOSE_SESSION", client.call(CLOSE_SESSION, client_id=me).result, OK)
    equal("and it is gone", client.call(WRITE, add, client_id=me, lane=1, number=11).result,
          NO_SESSION)
    session_limit(client)
    other.close()


def lane_busy(client, me, groove):
    """Two numbers on one lane at once, and one number many times at once, behind a big write."""
    ids = range(2 * 10**6, 2 * 10**6 + min(groove.event_count_max, 2000))
    load = section(groove.id, UPSERT, [item(groove, i) for i in ids])
    number = 100
    results = []
    for _ in range(100):
        connection = Connection(client.path)
        for i in range(2):
            connection.send(request(WRITE, load, client_id=me, lane=0, number=number + i))
        results = [connection.receive()[1].result for _ in range(2)]
        connection.close()
        number += 2
        if LANE_BUSY in results:
            break
    check("LANE_BUSY", LANE_BUSY in results, results)
    connection = Connection(client.path)
    for _ in range(5):
        connection.send(request(WRITE, load, client_id=me, lane=0, number=number))
    replies = {connection.receive()[1].bytes for _ in range(5)}
    equal("one execution, and its reply to each", len(replies), 1)
    connection.close()


def session_limit(client):
    opened = []
    result = OK
    while result == OK and len(opened) < 100000:
        one = os.urandom(16)
        result = open_session(client, one, 64)[0].result
        opened.append(one)
    equal("LIMIT: no session left", result, LIMIT)
    equal("they are closed",
          {client.call(CLOSE_SESSION, client_id=one).result for one in opened[:-1]}, {OK})


def drops(client):
    old = grooves(client)["item"]
    reply = client.call(DROP_GROOVE, name_bytes("item"))
    equal("DROP_GROOVE", (reply.result, reply.body), (OK, b""))
    equal("a dropped groove is unknown",
          (client.call(LOOKUP, lookup(old.id, [1])).result, "item" in grooves(client)),
          (UNKNOWN_GROOVE, False))


def tree_limit(client):
    made = []
    result = OK
    while result == OK and len(made) < 1000:
        made.append(f"groove_{len(made)}")
        result = client.call(CREATE_GROOVE, groove_spec(made[-1], [("a", U8, 0)])).result
    equal("LIMIT: no groove left", result, LIMIT)
    equal("they are dropped", {client.call(DROP_GROOVE, name_bytes(name)).result
                               for name in made[:-1]}, {OK})


def mode_budget(path):
    """A daemon whose reads may look through next to nothing."""
    client = Client(path)
    groove = item_groove(client)
    step = min(groove.event_count_max, 2000)
    for at in range(0, 100 * step, step):
        events = [item(groove, 1 + at + i, label=b"same") for i in range(step)]
        assert failures(client.call(WRITE, section(groove.id, INSERT, events))) == []
    reply = client.call(COUNT, query(groove.id, groove.indexes["by_label"][0],
                                     b"same".ljust(12, b"\0")))
    equal("BUDGET", reply.result, BUDGET)
    client.close()


def mode_denied(path):
    """A daemon whose configuration lets us read the groove `item`, and no more."""
    client = Client(path)
    equal("DENIED", [client.call(CREATE_GROOVE, groove_spec("mine", [])).result,
                     client.call(CREATE_GROOVE, groove_spec("item", [])).result,
                     client.call(DROP_GROOVE, name_bytes("item")).result,
                     client.call(WRITE, section(1, REMOVE, [id_bytes(1)])).result], [DENIED] * 4)
    equal("what needs no right, or has it", [client.call(op).result for op in (PING, SCHEMA, STAT)],
          [OK] * 3)
    client.close()


def mode_full(path):
    """A daemon whose file cannot grow for long."""
    client = Client(path)
    groove = item_groove(client)
    step = min(groove.event_count_max, 2000)
    at = 1
    while True:
        reply = client.call(WRITE, section(groove.id, INSERT,
                                           [item(groove, at + i) for i in range(step)]))
        if reply.result == BUSY:
            time.sleep(reply.retry_after_ms / 1000)
            continue
        if reply.result != OK or at > 10**7:
            break
        at += step
    equal("FULL", reply.result, FULL)
    equal("reads go on", len(objects(client.call(LOOKUP, lookup(groove.id, [1, at - 1, at])))), 2)
    client.close()


def scattered(groove, id):
    """Objects whose labels come in no order, so that the index's merges read what there was."""
    return item(groove, id, label=b"%05d" % (id * 7919 % 100000))


def mode_fill(path, count):
    """Enough objects for merges and a checkpoint."""
    client = Client(path)
    groove = item_groove(client)
    step = min(groove.event_count_max, 500)
    for at in range(0, int(count), step):
        events = [scattered(groove, 1 + at + i) for i in range(step)]
        assert failures(client.call(WRITE, section(groove.id, INSERT, events))) == []
    client.close()


def mode_damaged(path, count):
    """A daemon of a file in which all objects and index entries are damaged."""
    client = Client(path)
    groove = grooves(client)["item"]
    results = {client.call(LOOKUP, lookup(groove.id, [id])).result for id in range(1, 500)}
    check("CORRUPT", CORRUPT in results and results <= {OK, CORRUPT}, results)
    results = {client.call(WRITE, section(groove.id, UPDATE, [item(groove, id)])).result
               for id in range(1, 500)}
    check("a write that depends on what is damaged is refused",
          CORRUPT in results and results <= {OK, CORRUPT, READ_ONLY}, results)
    step = min(groove.event_count_max, 500)
    at = int(count) + 1
    end = 30 * at
    while at < end:
        reply = client.call(WRITE, section(groove.id, INSERT,
                                           [scattered(groove, at + i) for i in range(step)]))
        if reply.result == BUSY:
            time.sleep(reply.retry_after_ms / 1000)
            continue
        if reply.result != OK:
            break
        at += step
    equal("READ_ONLY", reply.result, READ_ONLY)
    client.close()


def mode_stop(path, pid):
    """A daemon that is told to stop while many ask."""
    results = []

    def ask():
        try:
            client = Client(path)
            while True:
                results.append(client.call(PING, b"x" * 1000).result)
        except (Lost, OSError):
            pass

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(results) < 1000:
        time.sleep(0.001)
    os.kill(int(pid), signal.SIGTERM)
    for thread in threads:
        thread.join()
    check("SHUTTING_DOWN or nothing", set(results) <= {OK, SHUTTING_DOWN}, set(results))


def mode_busy(path):
    """More at once than the daemon queues."""
    client = Client(path)
    groove = item_groove(client)
    load = section(groove.id, UPSERT, [item(groove, 1 + i)
                                       for i in range(min(groove.event_count_max, 2000))])
    results = []
    pauses = set()

    def flood():
        connection = Connection(path)
        for _ in range(2):
            for _ in range(20):
                connection.send(request(WRITE, load))
            for _ in range(20):
                reply = connection.receive()[1]
                results.append(reply.result)
                if reply.result == BUSY:
                    pauses.add(reply.retry_after_ms)
        connection.close()

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("a flood is answered, with BUSY if need be", set(results) <= {OK, BUSY}, set(results))
    check("BUSY says how long to wait", all(pauses), pauses)
    client.close()


def mode_before(path, state):
    """Numbered writes, before the daemon is killed."""
    client = Client(path)
    groove = item_groove(client)
    me = os.urandom(16)
    open_session(client, me, 2)
    body = section(groove.id, INSERT, [item(groove, 10**9)])
    reply = client.call(WRITE, body, client_id=me, lane=1, number=5)
    equal("a numbered write before the daemon is killed", failures(reply), [])
    with open(state, "w", encoding="ascii") as file:
        json.dump([me.hex(), body.hex(), reply.bytes.hex()], file)


def mode_after(path, state):
    """The same again, after the daemon came back."""
    client = Client(path)
    with open(state, encoding="ascii") as file:
        me, body, reply = map(bytes.fromhex, json.load(file))
    equal("its repetition after a restart gets the same bytes",
          client.call(WRITE, body, client_id=me, lane=1, number=5).bytes, reply)
    equal("the session tells it, too", open_session(client, me, 9)[1:], (2, [0, 5]))


def mode_table(page, *exceptions):
    """What was seen of what the page documents."""
    text = open(page, encoding="utf-8").read()
    results = text[text.index("\n## 3. "):text.index("\n## 4. ")]
    events = text[text.index("| result of an event"):text.index("\n## 6. ")]
    pattern = re.compile(r"^\| (\d+) \| ([A-Z_]+)[ *]*\|", re.MULTILINE)
    with open(os.environ["SEEN"], encoding="ascii") as file:
        seen = set(file.read().split("\n"))
    missing = []
    documented = set()
    for kind, table in (("result", results), ("event", events)):
        for number, name in pattern.findall(table):
            documented.add(f"{kind} {number}")
            found = f"{kind} {number}" in seen
            print(f"    {kind:7}{number:>3} {name:18} {'seen' if found else '-'}")
            full_name = name if kind == "result" else f"event.{name}"
            if not found and full_name not in exceptions:
                missing.append(full_name)
    equal("every documented result was provoked", missing, [])
    equal("and none that is not documented", {line for line in seen if line} - documented, set())


if __name__ == "__main__":
    globals()[f"mode_{sys.argv[1]}"](*sys.argv[2:])
    sys.exit(failed)
