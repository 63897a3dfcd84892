"""A client of the Holt object store.

    import holt

    with holt.connect("/var/lib/holt/data.holt.sock") as store:
        store.create("city", {"name": holt.text(40), "country": holt.text(2), "people": holt.u32},
                     indexes={"country": holt.Index("country")}, exist_ok=True)
        cities = store.groove("city")

        with store.write() as write:               # committed at the end of the block
            write.upsert(cities, 1, name="Vaduz", country="LI", people=5450)
            write.upsert(cities, 2, name="Schaan", country="LI", people=5998)

        for city in cities.query("country", country="LI"):
            print(city.id, city.name, city.people)

        city = cities[1]
        cities.update(city.replace(people=5500), if_unchanged=True)

Durable when the call returns. A connection that is lost, a daemon that restarts or is busy are waited
for until the deadline (10 s unless said otherwise); with sessions, which the daemon tells, each write
takes effect exactly once all the same.

What goes wrong is an exception, one class for each kind, all of them `holt.Error`. Two are special:
`Failures` says that a write was executed and some of its events failed, `OutcomeUnknown` that a write was
sent and its answer did not come in time: `write.resolve()` goes on asking. All others mean that nothing
happened.

A client may be used by all threads of a process, but not by its children: they connect anew.
Deadlines are seconds. The library is libholt.so.1, or what $HOLT_LIBRARY names.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import json
import os
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Union

from . import _library
from ._library import Id as _Id

_lib = _library.load()

__version__ = _lib.holt_library_version().decode()

Value = Union[int, float, bool, str, bytes, uuid.UUID]
ObjectId = Union[int, uuid.UUID]

# ---- Errors ---------------------------------------------------------------------------------------


class Error(Exception):
    """What libholt or the daemon refused. `status` is the number of docs/protocol.md, or libholt's."""

    status = 0

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        if status is not None:
            self.status = status

    @property
    def name(self) -> str:
        """The status by name, such as "UNKNOWN_GROOVE"."""
        return _lib.holt_status_name(self.status).decode()


class TooBig(Error):
    """More bytes or events than one request may hold."""
    status = 6


class UnknownGroove(Error, LookupError):
    """There is no such groove."""
    status = 7


class UnknownIndex(Error, LookupError):
    """The groove has no such index."""
    status = 8


class GrooveExists(Error):
    """There is a groove of this name."""
    status = 9


class BadSchema(Error, ValueError):
    """The description of a groove is not acceptable."""
    status = 10


class Limit(Error):
    """A limit of the store is reached."""
    status = 11


class Busy(Error):
    """The daemon was busy until the deadline."""
    status = 12


class Full(Error):
    """The disk is full: writes are refused, reads go on."""
    status = 13


class ReadOnly(Error):
    """Damage was found: writes are refused, reads go on."""
    status = 14


class Corrupt(Error):
    """What was asked for is damaged on disk."""
    status = 15


class Expired(Error, TimeoutError):
    """The deadline passed before the daemon began with the request."""
    status = 18


class Denied(Error, PermissionError):
    """The daemon does not let this user do it."""
    status = 19


class Overtaken(Error):
    """Writes overtook a read too often. Ask for less."""
    status = 21


class Budget(Error):
    """A read looked through all that one read may. Ask for less."""
    status = 22


class OutcomeUnknown(Error):
    """The write was sent, and its answer did not come in time: it may have happened.

    `write.resolve()` goes on asking, with a session."""
    status = 100


class Failures(Error):
    """The write was executed, and some of its events failed: see `failures`."""
    status = 101

    def __init__(self, text: str, status: int | None = None,
                 failures: Sequence[Failure] = (), total: int = 0) -> None:
        if failures:
            text = f"{text}: " + ", ".join(str(failure) for failure in failures[:5])
        super().__init__(text, status)
        self.failures = list(failures)
        """Those that are listed, in the order of the events."""
        self.total = total
        """How many there were; more than listed only if there were very many."""


class Timeout(Error, TimeoutError):
    """The deadline passed; nothing happened."""
    status = 102


class NoDaemon(Error, ConnectionError):
    """Nobody answers on the socket; nothing happened."""
    status = 103


class Permission(Error, PermissionError):
    """This user may not open the socket."""
    status = 104


class NotHolt(Error, ConnectionError):
    """What answers is not a Holt daemon of this protocol version."""
    status = 105


class NotSupported(Error):
    """The daemon lacks a feature that was asked for."""
    status = 106


class BadArgument(Error, ValueError):
    """An argument is wrong."""
    status = 107


class OutOfRange(Error, ValueError):
    """A value does not fit its field."""
    status = 108


class WrongType(Error, TypeError):
    """A value is not of its field's type."""
    status = 109


class Forked(Error):
    """The client was opened by another process."""
    status = 112


class Closed(Error):
    """The client is closed, or being closed."""
    status = 113


class QueueFull(Error):
    """As many calls are waiting as the client allows."""
    status = 114


_BY_STATUS = {kind.status: kind for kind in (
    TooBig, UnknownGroove, UnknownIndex, GrooveExists, BadSchema, Limit, Busy, Full, ReadOnly, Corrupt,
    Expired, Denied, Overtaken, Budget, OutcomeUnknown, Failures, Timeout, NoDaemon, Permission, NotHolt,
    NotSupported, BadArgument, OutOfRange, WrongType, Forked, Closed, QueueFull)}


def _raise(status: int, text: str) -> None:
    raise _BY_STATUS.get(status, Error)(text, status)


def _check(status: int, error: _library.Error | None = None, what: str = "") -> None:
    if status != 0:
        text = (error.text if error is not None and error.status == status
                else _lib.holt_status_text(status)).decode(errors="replace")
        _raise(status, f"{what}: {text}" if what else text)


@dataclass(frozen=True)
class Failure:
    """One event of a write that failed."""

    event: int
    """Which one of the write, from 0."""
    result: int
    """The number of docs/protocol.md, section 5."""

    @property
    def name(self) -> str:
        """The result by name: "EXISTS", "NOT_FOUND", "UNIQUE", "GUARD", "LINKED"..."""
        return _lib.holt_event_result_name(self.result).decode()

    def __str__(self) -> str:
        return f"event {self.event}: {_lib.holt_event_result_text(self.result).decode()}"


# ---- Without waiting ------------------------------------------------------------------------------

_pending: dict[int, Callable[[int], None]] = {} # by the context that libholt hands back
_numbers = itertools.count(1)


@_library.Callback # One for all, which lives as long as anything may call it.
def _answered(context: int, _handle: object, status: int) -> None:
    _pending.pop(context)(status)


def _submit(function: Any, handle: ctypes.c_void_p, limit: int, done: Callable[[int], None],
            error: _library.Error) -> int:
    """`done` will be called on the client's thread if this returns 0."""
    number = next(_numbers)
    _pending[number] = done
    status = function(handle, limit, _answered, number, ctypes.byref(error))
    if status != 0:
        del _pending[number]
    return status


def _future() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel() # What was submitted is not taken back.
    return future


# ---- Schema ---------------------------------------------------------------------------------------

_TYPE_NAMES = ("?", "u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "f32", "f64",
               "bool", "bytes", "text", "timestamp")
(_U8, _U16, _U32, _U64, _U128, _I8, _I16, _I32, _I64, _F32, _F64, _BOOL, _BYTES, _TEXT,
 _TIMESTAMP) = range(1, 16)


@dataclass(frozen=True)
class Type:
    """The type of a field: `holt.u32`, `holt.text(40)`..."""

    number: int
    size: int = 0

    def __str__(self) -> str:
        name = _TYPE_NAMES[self.number]
        return f"{name}<{self.size}>" if self.number in (_BYTES, _TEXT) else name


u8, u16, u32, u64, u128 = Type(_U8), Type(_U16), Type(_U32), Type(_U64), Type(_U128)
i8, i16, i32, i64 = Type(_I8), Type(_I16), Type(_I32), Type(_I64)
f32, f64, boolean, timestamp = Type(_F32), Type(_F64), Type(_BOOL), Type(_TIMESTAMP)


def text(size: int) -> Type:
    """UTF-8 of at most `size` bytes: str."""
    return Type(_TEXT, size)


def binary(size: int) -> Type:
    """`size` bytes, shorter values padded with zeros: bytes."""
    return Type(_BYTES, size)


class Index:
    """An index over one to four fields: `Index("country", "city", unique=True)`.

    A unique index takes each value once. A sparse one leaves out objects whose first indexed field is
    zero."""

    def __init__(self, *fields: str, unique: bool = False, sparse: bool = False) -> None:
        self.fields = fields
        self.unique = unique
        self.sparse = sparse

    def __repr__(self) -> str:
        flags = "".join(f", {name}=True" for name in ("unique", "sparse") if getattr(self, name))
        return f"Index({', '.join(map(repr, self.fields))}{flags})"


def _id_number(id: ObjectId) -> int:
    number = id.int if isinstance(id, uuid.UUID) else id
    if not isinstance(number, int) or isinstance(number, bool):
        raise WrongType(f"an id is an int or a UUID, not {type(id).__name__}")
    if not 0 < number < 1 << 128:
        raise OutOfRange("an id has 128 bits and is not zero")
    return number


def _id_struct(number: int) -> _Id:
    return _Id(number & (1 << 64) - 1, number >> 64)


def new_id() -> int:
    """A random id, which nobody else has."""
    made = _Id()
    if not _lib.holt_id_random(ctypes.byref(made)):
        raise Error("the system has no random numbers", 111)
    return made.high << 64 | made.low


class Object:
    """One object of a groove, as it was read: its fields are attributes, and so are `id`, `timestamp`
    (when it was made) and `version` (when it was last changed), in nanoseconds since 1970.

    It does not change; `replace` makes a changed copy, to be written back."""

    __slots__ = ("_groove", "_values", "id", "timestamp", "version")

    def __init__(self, groove: Groove, id: int, values: Mapping[str, Value], timestamp: int = 0,
                 version: int = 0) -> None:
        for name, value in (("_groove", groove), ("_values", dict(values)), ("id", id),
                            ("timestamp", timestamp), ("version", version)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"groove {self._groove.name} has no field {name}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("objects do not change: see replace()")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Object) and self.id == other.id and
                self.version == other.version and self._values == other._values)

    def __hash__(self) -> int:
        return hash((self.id, self.version))

    def __repr__(self) -> str:
        values = "".join(f", {name}={value!r}" for name, value in self._values.items())
        return f"{self._groove.name}(id={self.id}{values})"

    def as_dict(self) -> dict[str, Any]:
        """Its fields, without id, timestamp and version."""
        return dict(self._values)

    def replace(self, **values: Value) -> Object:
        """A copy with other values in some fields, and the same id and version."""
        for name in values:
            if name not in self._values:
                raise AttributeError(f"groove {self._groove.name} has no field {name}")
        return Object(self._groove, self.id, {**self._values, **values}, self.timestamp,
                      self.version)


class Result(Sequence[Object]):
    """The objects of a lookup or a query. Objects are made as they are looked at."""

    def __init__(self, groove: Groove, handle: ctypes.c_void_p) -> None:
        self._groove = groove
        self._handle = handle
        self._length = _lib.holt_read_object_count(handle)
        self.commit: int = _lib.holt_read_commit_number(handle)
        """What was seen is the state after this commit."""

    def __del__(self) -> None:
        if self._handle:
            _lib.holt_read_free(self._handle)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(self._length))]
        if position < 0:
            position += self._length
        if not 0 <= position < self._length:
            raise IndexError(position)
        return self._groove._decode(_lib.holt_read_object(self._handle, position))

    def __iter__(self) -> Iterator[Object]:
        return (self[i] for i in range(self._length))

    def __repr__(self) -> str:
        return f"<{self._length} objects of {self._groove.name} at commit {self.commit}>"


class Groove:
    """Objects of one kind. `Client.groove` opens it."""

    def __init__(self, client: Client, name: str) -> None:
        handle, error = ctypes.c_void_p(), _library.Error()
        self._handle: ctypes.c_void_p | None = None
        _check(_lib.holt_groove_open(client._open(), name.encode(), 0, ctypes.byref(handle),
                                     ctypes.byref(error)), error)
        self._handle = handle
        self._client = client
        self._size = _lib.holt_groove_object_size(handle)
        self._fields = {}
        for i in range(_lib.holt_groove_field_count(handle)):
            field = _lib.holt_groove_field_at(handle, i)
            self._fields[field.contents.name.decode()] = field
        self.name = name
        self.fields: dict[str, Type] = {
            field_name: Type(field.contents.type, field.contents.size
                             if field.contents.type in (_BYTES, _TEXT) else 0)
            for field_name, field in self._fields.items()}
        """The type of each field, in their order."""
        names = list(self._fields)
        self.indexes: dict[str, Index] = {}
        """The indexes by name."""
        for i in range(_lib.holt_groove_index_count(handle)):
            index = _lib.holt_groove_index_at(handle, i).contents
            self.indexes[index.name.decode()] = Index(
                *(names[index.fields[j]] for j in range(index.field_count)),
                unique=bool(index.flags & 1), sparse=bool(index.flags & 2))
        self.event_count_max: int = _lib.holt_groove_event_count_max(handle)
        """Most events of this groove in one write."""

    def __del__(self) -> None:
        if self._handle:
            _lib.holt_groove_close(self._handle)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {kind}" for name, kind in self.fields.items())
        return f"<groove {self.name}: {fields}>"

    # Bytes of objects.

    def _set(self, image: Any, name: str, value: Value) -> None:
        field = self._fields.get(name)
        if field is None:
            raise BadArgument(f"groove {self.name} has no field {name}")
        kind = field.contents.type
        if isinstance(value, uuid.UUID):
            value = value.int
        status = 109
        if kind == _TEXT:
            if isinstance(value, str):
                data = value.encode()
                status = _lib.holt_set_bytes(field, image, data, len(data))
        elif kind == _BYTES:
            if isinstance(value, (bytes, bytearray, memoryview)):
                data = bytes(value)
                status = _lib.holt_set_bytes(field, image, data, len(data))
        elif kind in (_F32, _F64):
            if isinstance(value, (int, float)):
                status = _lib.holt_set_real(field, image, value)
        elif isinstance(value, int): # bool, too
            if kind == _U128 and 0 <= value < 1 << 128:
                status = _lib.holt_set_u128(field, image, _id_struct(value))
            elif 0 <= value < 1 << 64:
                status = _lib.holt_set_unsigned(field, image, value)
            elif -(1 << 63) <= value < 0:
                status = _lib.holt_set_signed(field, image, value)
            else:
                status = 108
        if status != 0:
            _check(status, what=f"{name} {self.fields[name]}: {value!r}")

    def _encode(self, id: int, values: Mapping[str, Value]) -> Any:
        image = ctypes.create_string_buffer(self._size)
        image[0:16] = id.to_bytes(16, "little")
        for name, value in values.items():
            self._set(image, name, value)
        return image

    def _get(self, image: Any, field: Any) -> Value:
        kind = field.contents.type
        if kind in (_TEXT, _BYTES):
            data, size = ctypes.c_void_p(), ctypes.c_size_t()
            _lib.holt_get_bytes(field, image, ctypes.byref(data), ctypes.byref(size))
            found = ctypes.string_at(data, size.value)
            return found.decode() if kind == _TEXT else found
        if kind in (_F32, _F64):
            real = ctypes.c_double()
            _lib.holt_get_real(field, image, ctypes.byref(real))
            return real.value
        if kind == _U128:
            wide = _Id()
            _lib.holt_get_u128(field, image, ctypes.byref(wide))
            return wide.high << 64 | wide.low
        if _I8 <= kind <= _I64:
            signed = ctypes.c_int64()
            _lib.holt_get_signed(field, image, ctypes.byref(signed))
            return signed.value
        unsigned = ctypes.c_uint64()
        _lib.holt_get_unsigned(field, image, ctypes.byref(unsigned))
        return bool(unsigned.value) if kind == _BOOL else unsigned.value

    def _decode(self, image: int) -> Object:
        head = ctypes.string_at(image, 32)
        values = {name: self._get(image, field) for name, field in self._fields.items()}
        return Object(self, int.from_bytes(head[:16], "little"), values,
                      int.from_bytes(head[16:24], "little"),
                      int.from_bytes(head[24:32], "little"))

    # Reading.

    def get_many(self, ids: Iterable[ObjectId], deadline: float = 0) -> Result:
        """Objects by id, in the order of the ids; those that do not exist are left out."""
        numbers = [_id_struct(_id_number(id)) for id in ids]
        if not numbers:
            raise BadArgument("no ids")
        handle, error = ctypes.c_void_p(), _library.Error()
        _check(_lib.holt_lookup(self._client._open(), self._handle, (_Id * len(numbers))(*numbers),
                                len(numbers), _milliseconds(deadline), ctypes.byref(handle),
                                ctypes.byref(error)), error)
        return Result(self, handle)

    def get(self, id: ObjectId, default: Any = None, deadline: float = 0) -> Any:
        """The object of this id, or `default`."""
        found = self.get_many([id], deadline)
        return found[0] if found else default

    def __getitem__(self, id: ObjectId) -> Object:
        found = self.get(id)
        if found is None:
            raise KeyError(id)
        return found

    def __contains__(self, id: ObjectId) -> bool:
        return self.get(id) is not None

    def _example(self, index: str, values: Mapping[str, Value]) -> Any:
        found = self.indexes.get(index)
        if found is None:
            raise UnknownIndex(f"groove {self.name} has no index {index}")
        if set(values) != set(found.fields):
            raise BadArgument(f"index {index} wants values of: {', '.join(found.fields)}")
        return self._encode(1, values)

    def query(self, index: str, limit: int = 0, deadline: float = 0, **values: Value) -> Result:
        """Objects that have these values in the fields of an index, in the order in which they were
        made: `cities.query("country", country="LI")`. `limit` 0: as many as one reply holds, which
        may be fewer than `count` says."""
        handle, error = ctypes.c_void_p(), _library.Error()
        _check(_lib.holt_query(self._client._open(), self._handle, index.encode(),
                               self._example(index, values), limit, _milliseconds(deadline),
                               ctypes.byref(handle), ctypes.byref(error)), error)
        return Result(self, handle)

    def count(self, index: str | None = None, deadline: float = 0, **values: Value) -> int:
        """How many objects have these values in the fields of an index; without one: how many there
        are."""
        number, error = ctypes.c_uint64(), _library.Error()
        example = self._example(index, values) if index is not None else None
        _check(_lib.holt_count(self._client._open(), self._handle,
                               index.encode() if index is not None else None, example,
                               _milliseconds(deadline), ctypes.byref(number),
                               ctypes.byref(error)), error)
        return number.value

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True

    # Reading without waiting.

    def _submit_read(self, describe: Callable[[ctypes.c_void_p], int],
                     finish: Callable[[Result], Any], deadline: float) -> Future[Any]:
        handle, error = ctypes.c_void_p(), _library.Error()
        _check(_lib.holt_read_new(self._client._open(), ctypes.byref(handle)))
        future = _future()

        def done(status: int) -> None:
            result = Result(self, handle) # From now on it keeps the read, and frees it.
            try:
                if status != 0:
                    _raise(status, _lib.holt_read_text(handle).decode(errors="replace"))
                future.set_result(finish(result))
            except Exception as failure:
                future.set_exception(failure)

        status = describe(handle)
        if status == 0:
            status = _submit(_lib.holt_read_submit, handle, _milliseconds(deadline), done, error)
        if status != 0:
            _lib.holt_read_free(handle)
            _check(status, error)
        return future

    def _submit_lookup(self, ids: Iterable[ObjectId], finish: Callable[[Result], Any],
                       deadline: float) -> Future[Any]:
        numbers = [_id_struct(_id_number(id)) for id in ids]
        if not numbers:
            raise BadArgument("no ids")
        array = (_Id * len(numbers))(*numbers)
        return self._submit_read(
            lambda handle: _lib.holt_read_lookup(handle, self._handle, array, len(numbers)),
            finish, deadline)

    def submit_get_many(self, ids: Iterable[ObjectId], deadline: float = 0) -> Future[Result]:
        """Begins what `get_many` does, and returns at once; the future's result is what `get_many`
        would have returned, or the exception that it would have raised."""
        return self._submit_lookup(ids, lambda result: result, deadline)

    def submit_get(self, id: ObjectId, default: Any = None, deadline: float = 0) -> Future[Any]:
        """`get` without waiting, as `submit_get_many`."""
        return self._submit_lookup([id], lambda result: result[0] if result else default, deadline)

    def submit_query(self, index: str, limit: int = 0, deadline: float = 0,
                     **values: Value) -> Future[Result]:
        """`query` without waiting, as `submit_get_many`."""
        example = self._example(index, values)
        found = _lib.holt_groove_index(self._handle, index.encode())
        return self._submit_read(
            lambda handle: _lib.holt_read_query(handle, self._handle, found, example, limit),
            lambda result: result, deadline)

    def submit_count(self, index: str | None = None, deadline: float = 0,
                     **values: Value) -> Future[int]:
        """`count` without waiting, as `submit_get_many`."""
        example = self._example(index, values) if index is not None else None
        found = _lib.holt_groove_index(self._handle, index.encode()) if index is not None else None
        return self._submit_read(
            lambda handle: _lib.holt_read_count(handle, self._handle, found, example),
            lambda result: _lib.holt_read_count_value(result._handle), deadline)

    # Writing, one event at a time.

    def insert(self, id: ObjectId, deadline: float = 0, **values: Value) -> int:
        """Makes an object; its timestamp and first version."""
        with self._client.write(deadline=deadline) as write:
            write.insert(self, id, **values)
        return write.timestamp

    def upsert(self, id: ObjectId, deadline: float = 0, **values: Value) -> int:
        """Makes an object, or replaces all of its fields; the new version."""
        with self._client.write(deadline=deadline) as write:
            write.upsert(self, id, **values)
        return write.timestamp

    def update(self, changed: Object, if_unchanged: bool = False, deadline: float = 0) -> int:
        """Writes an object back, if it has not changed since it was read or if that does not matter;
        the new version."""
        with self._client.write(deadline=deadline) as write:
            write.update(self, changed, if_unchanged=if_unchanged)
        return write.timestamp

    def remove(self, id: ObjectId, deadline: float = 0) -> None:
        """Removes an object, which must be there."""
        with self._client.write(deadline=deadline) as write:
            write.remove(self, id)


def _milliseconds(deadline: float | None) -> int:
    if deadline is None:
        return 0xffffffff
    return 0 if deadline == 0 else min(max(1, round(deadline * 1000)), 0xfffffffe)


# ---- Writes ---------------------------------------------------------------------------------------

_INSERT, _UPSERT, _UPDATE, _REMOVE, _CHECK = range(1, 6)


class Write:
    """A list of events that take effect in their order, at once, and durably. `Client.write` makes one:

        with store.write() as write:
            write.insert(cities, 1, name="Vaduz")
            write.remove(cities, 2)

    The block's end commits it; an exception in the block drops it. Each event can have a condition
    (`if_absent`, `if_present`, `if_version`), and be `linked` to the one after it: both happen, or
    none. With `atomic` all are linked."""

    def __init__(self, client: Client, atomic: bool, deadline: float | None) -> None:
        self._handle: ctypes.c_void_p | None = None
        handle = ctypes.c_void_p()
        _check(_lib.holt_write_new(client._open(), ctypes.byref(handle)))
        self._handle = handle
        self._client = client
        self._deadline = deadline
        _lib.holt_write_set_atomic(handle, atomic)

    def __del__(self) -> None:
        if self._handle:
            _lib.holt_write_free(self._handle)

    def __enter__(self) -> Write:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and len(self) > 0:
            self.commit()

    def __len__(self) -> int:
        return _lib.holt_write_event_count(self._handle)

    def __bool__(self) -> bool:
        return True

    def _add(self, kind: int, groove: Groove, id: int, image: Any, if_absent: bool,
             if_present: bool, if_version: int | None, linked: bool) -> None:
        conditions = (if_absent, if_present, if_version is not None)
        if sum(conditions) > 1:
            raise BadArgument("an event has one condition")
        guard = 1 + conditions.index(True) if any(conditions) else 0
        event = _library.Event(type=kind, groove=groove._handle, id=_id_struct(id), guard=guard,
                               version=if_version or 0, linked=linked,
                               object=ctypes.addressof(image) if image is not None else None)
        _check(_lib.holt_write_event(self._handle, ctypes.byref(event)))

    def insert(self, groove: Groove, id: ObjectId, *, linked: bool = False,
               **values: Value) -> None:
        """Makes an object, whose id must be new. Fields without a value are zero."""
        number = _id_number(id)
        self._add(_INSERT, groove, number, groove._encode(number, values), False, False, None,
                  linked)

    def upsert(self, groove: Groove, id: ObjectId, *, if_absent: bool = False,
               if_present: bool = False, if_version: int | None = None, linked: bool = False,
               **values: Value) -> None:
        """Makes an object, or replaces all fields of the one that is there."""
        number = _id_number(id)
        self._add(_UPSERT, groove, number, groove._encode(number, values), if_absent, if_present,
                  if_version, linked)

    def update(self, groove: Groove, changed: Object, *, if_unchanged: bool = False,
               linked: bool = False) -> None:
        """Writes an object back, which must be there: `city.replace(people=6000)`. `if_unchanged`:
        only if it has not been changed since it was read."""
        self._add(_UPDATE, groove, changed.id, groove._encode(changed.id, changed._values), False,
                  False, changed.version if if_unchanged else None, linked)

    def remove(self, groove: Groove, id: ObjectId, *, if_version: int | None = None,
               linked: bool = False) -> None:
        """Removes an object, which must be there."""
        self._add(_REMOVE, groove, _id_number(id), None, False, False, if_version, linked)

    def check(self, groove: Groove, id: ObjectId, *, if_absent: bool = False,
              if_present: bool = False, if_version: int | None = None,
              linked: bool = False) -> None:
        """Changes nothing, and fails unless its condition holds; for chains."""
        self._add(_CHECK, groove, _id_number(id), None, if_absent, if_present, if_version, linked)

    def _end(self, status: int, error: _library.Error | None) -> None:
        if status != Failures.status:
            _check(status, error)
            return
        count = _lib.holt_write_failure_count(self._handle)
        listed = [_lib.holt_write_failure(self._handle, i) for i in range(count)]
        raise Failures(_lib.holt_write_text(self._handle).decode(), status,
                       [Failure(one.event_index, one.result) for one in listed],
                       _lib.holt_write_failure_total(self._handle))

    def commit(self, deadline: float | None = 0) -> None:
        """Executes it. After `OutcomeUnknown`, `resolve`."""
        error = _library.Error()
        limit = _milliseconds(self._deadline if deadline == 0 else deadline)
        self._end(_lib.holt_write_commit(self._handle, limit, ctypes.byref(error)), error)

    def resolve(self, deadline: float | None = 0) -> None:
        """After `OutcomeUnknown`: asks on, and ends as `commit` would have."""
        error = _library.Error()
        self._end(_lib.holt_write_resolve(self._handle, _milliseconds(deadline),
                                          ctypes.byref(error)), error)

    def submit(self, deadline: float | None = 0) -> Future[Write]:
        """Begins what `commit` does, and returns at once. The future's result is this write, or the
        exception that `commit` would have raised. (`asyncio.wrap_future` makes it awaitable.)"""
        future = _future()

        def done(status: int) -> None:
            try:
                self._end(status, None)
            except Error as failure:
                future.set_exception(failure)
            else:
                future.set_result(self)

        error = _library.Error()
        limit = _milliseconds(self._deadline if deadline == 0 else deadline)
        _check(_submit(_lib.holt_write_submit, self._handle, limit, done, error), error)
        return future

    @property
    def timestamp(self) -> int:
        """Of the first event; event n has this + n, and so has the version of what it wrote."""
        return _lib.holt_write_timestamp(self._handle)

    @property
    def commit_number(self) -> int:
        """Its place in the order of all writes."""
        return _lib.holt_write_commit_number(self._handle)


# ---- Client ---------------------------------------------------------------------------------------


class Client:
    """A connection to a daemon, for all threads of a process. `holt.connect` opens one."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, wait: float = 0,
                 deadline: float = 0, session: bool | None = None, lanes: int = 0,
                 client_id: bytes | None = None) -> None:
        self._handle: ctypes.c_void_p | None = None
        options = _library.Options(
            socket_path=os.fsencode(socket) if socket is not None else None,
            wait_ms=round(wait * 1000), deadline_ms=round(deadline * 1000),
            session={None: 0, False: 1, True: 2}[session], lane_count=lanes)
        if client_id is not None:
            if len(client_id) != 16:
                raise BadArgument("a client id has 16 bytes")
            options.client_id = (ctypes.c_uint8 * 16)(*client_id)
        handle, error = ctypes.c_void_p(), _library.Error()
        _check(_lib.holt_open(ctypes.byref(options), ctypes.byref(handle), ctypes.byref(error)),
               error)
        self._handle = handle
        _clients.add(self)

    def _open(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise Closed("the client is closed")
        return self._handle

    def close(self) -> None:
        """Ends what is under way. Also what the end of a `with` block does."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            _lib.holt_close(handle)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def create(self, name: str, fields: Mapping[str, Type],
               indexes: Mapping[str, Index] | None = None, *, exist_ok: bool = False,
               deadline: float = 0) -> None:
        """Makes a groove. `exist_ok`: one of this name that is there, whatever its fields, will do."""
        wire_fields = (_library.FieldSpec * len(fields))()
        for spec, (field_name, kind) in zip(wire_fields, fields.items()):
            spec.name, spec.type, spec.size = field_name.encode(), kind.number, kind.size
        wire_indexes = (_library.IndexSpec * len(indexes or {}))()
        for one, (index_name, index) in zip(wire_indexes, (indexes or {}).items()):
            one.name, one.flags = index_name.encode(), index.unique | index.sparse << 1
            if not 1 <= len(index.fields) <= 4:
                raise BadArgument(f"index {index_name}: 1 to 4 fields")
            for i, field in enumerate(index.fields):
                one.fields[i] = field.encode()
        groove = _library.GrooveSpec(name=name.encode(), fields=wire_fields,
                                     field_count=len(wire_fields), indexes=wire_indexes,
                                     index_count=len(wire_indexes))
        error = _library.Error()
        status = _lib.holt_groove_create(self._open(), ctypes.byref(groove),
                                         _milliseconds(deadline), ctypes.byref(error))
        if not (exist_ok and status == GrooveExists.status):
            _check(status, error)

    def drop(self, name: str, deadline: float = 0) -> None:
        """Removes a groove with all its objects."""
        error = _library.Error()
        _check(_lib.holt_groove_drop(self._open(), name.encode(), _milliseconds(deadline),
                                     ctypes.byref(error)), error)

    def groove(self, name: str) -> Groove:
        """Opens a groove. Do it again after the groove was dropped and made anew."""
        return Groove(self, name)

    def grooves(self, deadline: float = 0) -> list[str]:
        """The names of all grooves."""
        names = ctypes.POINTER(ctypes.c_char_p)()
        count, error = ctypes.c_uint32(), _library.Error()
        _check(_lib.holt_groove_names(self._open(), _milliseconds(deadline), ctypes.byref(names),
                                      ctypes.byref(count), ctypes.byref(error)), error)
        found = [names[i].decode() for i in range(count.value)]
        _lib.holt_names_free(names)
        return found

    def write(self, *, atomic: bool = False, deadline: float | None = 0) -> Write:
        """An empty write, which the end of its `with` block commits."""
        return Write(self, atomic, deadline)

    def ping(self, deadline: float = 0) -> None:
        """Returns if the daemon serves."""
        error = _library.Error()
        _check(_lib.holt_ping(self._open(), _milliseconds(deadline), ctypes.byref(error)), error)

    def stat(self, deadline: float = 0) -> dict[str, Any]:
        """The daemon's statistics (docs/operations.md)."""
        found, error = ctypes.c_void_p(), _library.Error()
        _check(_lib.holt_stat(self._open(), _milliseconds(deadline), ctypes.byref(found),
                              ctypes.byref(error)), error)
        try:
            return json.loads(ctypes.string_at(found))
        finally:
            _lib.holt_text_free(found)

    @property
    def has_session(self) -> bool:
        """Whether writes are numbered, so that each takes effect exactly once."""
        return _lib.holt_has_session(self._open())

    @property
    def client_id(self) -> bytes:
        """Of the session; to go on with it in a later process."""
        found = (ctypes.c_uint8 * 16)()
        _lib.holt_client_id(self._open(), found)
        return bytes(found)

    @property
    def daemon_version(self) -> str:
        """Of the daemon."""
        found = ctypes.create_string_buffer(33)
        _lib.holt_daemon_version(self._open(), found)
        return found.value.decode()

    @property
    def stats(self) -> dict[str, int]:
        """What this client did: calls, messages, joined, sent_again, connections, busy."""
        found = _library.Stats()
        _lib.holt_stats_read(self._open(), ctypes.byref(found))
        return {name: getattr(found, name) for name, _ in found._fields_}


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: what is still under way would call into it."""
    for client in list(_clients):
        client.close()


def connect(socket: str | os.PathLike[str] | None = None, *, wait: float = 0, deadline: float = 0,
            session: bool | None = None, lanes: int = 0,
            client_id: bytes | None = None) -> Client:
    """Opens a client.

    `socket`: the daemon's; None: $HOLT_SOCKET.
    `wait`: how long to wait for a daemon that does not answer yet.
    `deadline`: of calls that do not say; 0: 10 seconds.
    `session`: None: if the daemon has sessions; True: or not at all; False: without.
    `lanes`: messages with writes under way at once, 1 to 64; 0: 4.
    `client_id`: of a session to go on with, from `Client.client_id`."""
    return Client(socket, wait=wait, deadline=deadline, session=session, lanes=lanes,
                  client_id=client_id)


__all__ = [
    "connect", "Client", "Groove", "Object", "Result", "Write", "Failure", "new_id", "Type", "Index",
    "u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "f32", "f64", "boolean",
    "timestamp", "text", "binary", "Error", *sorted(kind.__name__ for kind in _BY_STATUS.values()),
]
