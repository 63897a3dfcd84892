#!/usr/bin/env python3
"""Clients count together while the daemon is killed under them, again and again.

    exactly_once.py HOLT FILE KILLS SEED LISTENER...

Each of 16 clients has a session, reads a counter and writes it back with one more, guarded by the
version that it read. Whatever becomes of the daemon, of a connection or of a reply, the same bytes
are sent again until there is an answer; some are sent twice although there is one, some over two
connections at once, of some the reply is not waited for. An increment counts when its client is
told of it. In the end the counters hold exactly what the clients counted.

The daemon is killed by SIGKILL after so and so many increments, and started again with the next of
the listeners. Prints "ok" or "not ok" lines."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

from independent_client import (BUSY, COUNT, CREATE_GROOVE, GROOVE_EXISTS, GUARD,
                                GUARD_VERSION, INSERT, LOOKUP, OK, OPEN_SESSION, SHUTTING_DOWN,
                                U64, UPDATE, WRITE, Connection, Lost, check, equal, failures,
                                groove_spec, grooves, Client, lookup, objects, request, section)

CLIENTS, COUNTERS = 16, 8
TIMEOUT_S = 120


class Daemon:
    def __init__(self, holt, file, listeners):
        self.command = [holt, "start", file, "--cache", "8M"]
        self.listeners = listeners
        self.path = file + ".sock"
        self.starts = 0
        self.process = None
        self.log = open("daemon.log", "ab")

    def start(self):
        listener = self.listeners[self.starts % len(self.listeners)]
        workers = str(self.starts % 3)
        self.starts += 1
        self.process = subprocess.Popen(
            self.command + ["--listener", listener, "--workers", workers], stderr=self.log)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)


class Counter:
    """What all clients share: how many increments there were, and whether to go on."""

    def __init__(self):
        self.condition = threading.Condition()
        self.increments = 0
        self.done = False
        self.problem = None

    def add(self):
        with self.condition:
            self.increments += 1
            self.condition.notify_all()

    def fail(self, problem):
        with self.condition:
            self.problem = self.problem or problem
            self.done = True
            self.condition.notify_all()

    def wait(self, increments):
        deadline = time.monotonic() + TIMEOUT_S
        with self.condition:
            while self.increments < increments and not self.done:
                if not self.condition.wait(deadline - time.monotonic()):
                    self.problem = self.problem or "no increment for two minutes"
                    self.done = True


class CountingClient(threading.Thread):
    def __init__(self, path, groove, shared, seed):
        super().__init__(daemon=True)
        self.path, self.groove, self.shared = path, groove, shared
        self.random = random.Random(seed)
        self.client_id = self.random.randbytes(16)
        self.connection = None
        self.number = 0
        self.executed = 0
        self.mine = self.resent = self.twice = 0

    def exchange(self, message):
        """One try. None: nothing was learned of it."""
        try:
            if self.connection is None:
                self.connection = Connection(self.path, TIMEOUT_S)
            return self.connection.exchange(message)
        except (Lost, OSError):
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            time.sleep(0.01)
            return None

    def ask(self, message):
        """The same bytes, until there is a definite answer."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            reply = self.exchange(message)
            if reply is not None and reply.result not in (BUSY, SHUTTING_DOWN):
                return reply
            self.resent += 1
        raise AssertionError("no answer for two minutes")

    def write(self, body):
        """A numbered write, with a network that loses and doubles."""
        self.number += 1
        message = request(WRITE, body, number=self.number, client_id=self.client_id)
        chance = self.random.random()
        if chance < 0.1 and self.connection is not None:  # The reply is lost, with the connection.
            try:
                self.connection.send(message)
            except (Lost, OSError):
                pass
            self.connection.close()
            self.connection = None
        second = None
        if 0.1 <= chance < 0.2:  # A copy goes another way.
            try:
                second = Connection(self.path, TIMEOUT_S)
                second.send(message)
            except (Lost, OSError):
                second = None
        reply = self.ask(message)
        others = [self.ask(message)] if chance > 0.8 else []
        if second is not None:
            try:
                others.append(second.receive()[1])
            except (Lost, OSError):
                pass
            second.close()
        for other in others:
            if other.result not in (BUSY, SHUTTING_DOWN):
                assert other.bytes == reply.bytes, "two replies to one number"
                self.twice += 1
        assert reply.result == OK, (reply.result, reply.body)
        self.executed = self.number
        return reply

    def increment(self):
        id = 1 + self.random.randrange(COUNTERS)
        image, = objects(self.ask(request(LOOKUP, lookup(self.groove.id, [id]))))
        version, = struct.unpack_from("<Q", image, 24)
        value, = struct.unpack("<Q", self.groove.field(image, "value"))
        more = self.groove.object(id, value=struct.pack("<Q", value + 1))
        failed = failures(self.write(section(
            self.groove.id, UPDATE, [struct.pack("<Q", version) + more], guard=GUARD_VERSION)))
        if not failed:
            self.mine += 1
            self.shared.add()
        else:
            assert failed == [(0, GUARD)], failed

    def session(self):
        reply = self.ask(request(OPEN_SESSION, struct.pack("<I12x", 1), number=1,
                                 client_id=self.client_id))
        assert reply.result == OK, reply.body
        return struct.unpack("<IIQ", reply.body)

    def run(self):
        try:
            assert self.session() == (1, 0, 0)
            while not self.shared.done:
                self.increment()
            assert self.session() == (1, 0, self.executed)
        except Exception as problem:  # pylint: disable=broad-except
            self.shared.fail(f"client: {problem!r}")
        if self.connection is not None:
            self.connection.close()


def prepare(daemon):
    client = None
    while client is None:
        try:
            client = Client(daemon.path)
        except (Lost, OSError):
            time.sleep(0.02)
    made = client.call(CREATE_GROOVE, groove_spec("counters", [("value", U64, 0)]))
    assert made.result in (OK, GROOVE_EXISTS)
    groove = grooves(client)["counters"]
    added = client.call(WRITE, section(groove.id, INSERT,
                                       [groove.object(1 + i) for i in range(COUNTERS)]))
    assert failures(added) == []
    client.close()
    return groove


def total(daemon, groove):
    client = Client(daemon.path)
    found = objects(client.call(LOOKUP, lookup(groove.id, range(1, COUNTERS + 1))))
    assert len(found) == COUNTERS
    assert struct.unpack("<Q", client.call(COUNT, struct.pack(
        "<IIIIII", groove.id, 0xffffffff, 0, 0, 0, 0)).body) == (COUNTERS,)
    client.close()
    return sum(struct.unpack("<Q", groove.field(image, "value"))[0] for image in found)


def main(holt, file, kills, seed, *listeners):
    chance = random.Random(seed)
    daemon = Daemon(holt, file, listeners)
    daemon.start()
    groove = prepare(daemon)
    shared = Counter()
    clients = [CountingClient(daemon.path, groove, shared, f"{seed} {i}") for i in range(CLIENTS)]
    for client in clients:
        client.start()
    for _ in range(int(kills)):
        shared.wait(shared.increments + chance.randrange(20, 120))
        time.sleep(chance.random() / 200)  # Anywhere between two syncs.
        if daemon.end(signal.SIGKILL) != -signal.SIGKILL:
            shared.fail("the daemon ended before it was killed")
        if shared.done:
            break
        daemon.start()
    shared.wait(shared.increments + 100)
    shared.done = True
    for client in clients:
        client.join(TIMEOUT_S)
    equal("no client met anything that it should not", shared.problem, None)
    if shared.problem is None:
        equal("the counters hold what was counted", total(daemon, groove), shared.increments)
        check("requests were sent again", sum(client.resent for client in clients) > 0)
        check("and answered twice in the same bytes", sum(client.twice for client in clients) > 0)
    equal("the daemon stops", daemon.end(signal.SIGTERM), 0)
    print(f"# {daemon.starts - 1} kills, {shared.increments} increments, "
          f"{sum(client.resent for client in clients)} sent again, "
          f"{sum(client.twice for client in clients)} answered twice")


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
