"""libholt.so as ctypes sees it: structs, prototypes, nothing else. docs/clients.md is for people."""

from __future__ import annotations

import ctypes
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, c_bool, c_char, c_char_p, c_double, c_int,
                    c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p)


class Id(Structure):
    _fields_ = [("low", c_uint64), ("high", c_uint64)]


class Error(Structure):
    _fields_ = [("status", c_int), ("text", c_char * 512)]


class Options(Structure):
    _fields_ = [("socket_path", c_char_p), ("wait_ms", c_uint32), ("deadline_ms", c_uint32),
                ("session", c_int), ("lane_count", c_uint32), ("request_count_max", c_uint32),
                ("client_id", c_uint8 * 16), ("no_join", c_bool), ("reserved", c_uint8 * 63)]


class Field(Structure):
    _fields_ = [("name", c_char * 32), ("type", c_int), ("size", c_uint32), ("offset", c_uint32)]


class Index(Structure):
    _fields_ = [("name", c_char * 32), ("field_count", c_uint32), ("fields", c_uint32 * 4),
                ("flags", c_uint32)]


class FieldSpec(Structure):
    _fields_ = [("name", c_char_p), ("type", c_int), ("size", c_uint32)]


class IndexSpec(Structure):
    _fields_ = [("name", c_char_p), ("fields", c_char_p * 4), ("flags", c_uint32)]


class GrooveSpec(Structure):
    _fields_ = [("name", c_char_p), ("fields", POINTER(FieldSpec)), ("field_count", c_uint32),
                ("indexes", POINTER(IndexSpec)), ("index_count", c_uint32)]


class Event(Structure):
    _fields_ = [("type", c_int), ("groove", c_void_p), ("object", c_void_p), ("id", Id),
                ("guard", c_int), ("version", c_uint64), ("linked", c_bool)]


class Failure(Structure):
    _fields_ = [("event_index", c_uint32), ("result", c_int)]


class Stats(Structure):
    _fields_ = [("calls", c_uint64), ("messages", c_uint64), ("joined", c_uint64),
                ("sent_again", c_uint64), ("connections", c_uint64), ("busy", c_uint64)]


Callback = CFUNCTYPE(None, c_void_p, c_void_p, c_int)

_error = POINTER(Error)
_field = POINTER(Field)
_handle = POINTER(c_void_p)

# Function: what it returns, what it takes.
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "holt_status_name": (c_char_p, [c_int]),
    "holt_status_text": (c_char_p, [c_int]),
    "holt_event_result_name": (c_char_p, [c_int]),
    "holt_event_result_text": (c_char_p, [c_int]),
    "holt_library_version": (c_char_p, []),
    "holt_open": (c_int, [POINTER(Options), _handle, _error]),
    "holt_close": (None, [c_void_p]),
    "holt_has_session": (c_bool, [c_void_p]),
    "holt_client_id": (None, [c_void_p, c_uint8 * 16]),
    "holt_features": (c_uint64, [c_void_p]),
    "holt_daemon_version": (None, [c_void_p, c_char_p]),
    "holt_stats_read": (None, [c_void_p, POINTER(Stats)]),
    "holt_ping": (c_int, [c_void_p, c_uint32, _error]),
    "holt_stat": (c_int, [c_void_p, c_uint32, _handle, _error]),
    "holt_text_free": (None, [c_void_p]),
    "holt_id_random": (c_bool, [POINTER(Id)]),
    "holt_set_unsigned": (c_int, [_field, c_void_p, c_uint64]),
    "holt_set_signed": (c_int, [_field, c_void_p, c_int64]),
    "holt_set_u128": (c_int, [_field, c_void_p, Id]),
    "holt_set_real": (c_int, [_field, c_void_p, c_double]),
    "holt_set_bytes": (c_int, [_field, c_void_p, c_char_p, c_size_t]),
    "holt_get_unsigned": (c_int, [_field, c_void_p, POINTER(c_uint64)]),
    "holt_get_signed": (c_int, [_field, c_void_p, POINTER(c_int64)]),
    "holt_get_u128": (c_int, [_field, c_void_p, POINTER(Id)]),
    "holt_get_real": (c_int, [_field, c_void_p, POINTER(c_double)]),
    "holt_get_bytes": (c_int, [_field, c_void_p, _handle, POINTER(c_size_t)]),
    "holt_groove_create": (c_int, [c_void_p, POINTER(GrooveSpec), c_uint32, _error]),
    "holt_groove_drop": (c_int, [c_void_p, c_char_p, c_uint32, _error]),
    "holt_groove_open": (c_int, [c_void_p, c_char_p, c_uint32, _handle, _error]),
    "holt_groove_close": (None, [c_void_p]),
    "holt_groove_names": (c_int, [c_void_p, c_uint32, POINTER(POINTER(c_char_p)),
                                  POINTER(c_uint32), _error]),
    "holt_names_free": (None, [POINTER(c_char_p)]),
    "holt_groove_object_size": (c_uint32, [c_void_p]),
    "holt_groove_event_count_max": (c_uint32, [c_void_p]),
    "holt_groove_field_count": (c_uint32, [c_void_p]),
    "holt_groove_index_count": (c_uint32, [c_void_p]),
    "holt_groove_field_at": (_field, [c_void_p, c_uint32]),
    "holt_groove_index_at": (POINTER(Index), [c_void_p, c_uint32]),
    "holt_groove_index": (POINTER(Index), [c_void_p, c_char_p]),
    "holt_write_new": (c_int, [c_void_p, _handle]),
    "holt_write_free": (None, [c_void_p]),
    "holt_write_clear": (None, [c_void_p]),
    "holt_write_event": (c_int, [c_void_p, POINTER(Event)]),
    "holt_write_set_atomic": (None, [c_void_p, c_bool]),
    "holt_write_event_count": (c_uint32, [c_void_p]),
    "holt_write_commit": (c_int, [c_void_p, c_uint32, _error]),
    "holt_write_submit": (c_int, [c_void_p, c_uint32, Callback, c_void_p, _error]),
    "holt_write_resolve": (c_int, [c_void_p, c_uint32, _error]),
    "holt_write_text": (c_char_p, [c_void_p]),
    "holt_write_commit_number": (c_uint64, [c_void_p]),
    "holt_write_timestamp": (c_uint64, [c_void_p]),
    "holt_write_failure_count": (c_uint32, [c_void_p]),
    "holt_write_failure_total": (c_uint32, [c_void_p]),
    "holt_write_failure": (Failure, [c_void_p, c_uint32]),
    "holt_read_new": (c_int, [c_void_p, _handle]),
    "holt_read_free": (None, [c_void_p]),
    "holt_read_lookup": (c_int, [c_void_p, c_void_p, POINTER(Id), c_uint32]),
    "holt_read_query": (c_int, [c_void_p, c_void_p, POINTER(Index), c_void_p, c_uint32]),
    "holt_read_count": (c_int, [c_void_p, c_void_p, POINTER(Index), c_void_p]),
    "holt_read_submit": (c_int, [c_void_p, c_uint32, Callback, c_void_p, _error]),
    "holt_read_text": (c_char_p, [c_void_p]),
    "holt_read_count_value": (c_uint64, [c_void_p]),
    "holt_read_commit_number": (c_uint64, [c_void_p]),
    "holt_read_object_count": (c_uint32, [c_void_p]),
    "holt_read_object": (c_void_p, [c_void_p, c_uint32]),
    "holt_lookup": (c_int, [c_void_p, c_void_p, POINTER(Id), c_uint32, c_uint32, _handle, _error]),
    "holt_query": (c_int, [c_void_p, c_void_p, c_char_p, c_void_p, c_uint32, c_uint32, _handle,
                           _error]),
    "holt_count": (c_int, [c_void_p, c_void_p, c_char_p, c_void_p, c_uint32, POINTER(c_uint64),
                           _error]),
}


def load() -> ctypes.CDLL:
    """$HOLT_LIBRARY, or libholt.so.1 where the system looks for libraries."""
    library = ctypes.CDLL(os.environ.get("HOLT_LIBRARY") or "libholt.so.1")
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
