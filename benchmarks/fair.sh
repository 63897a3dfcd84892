#!/usr/bin/env bash
# What a user who floods costs another one, on each listener: how long the modest user's answers take
# alone and beside floods of several shapes. As root, so that they are two users.
#
#   benchmarks/fair.sh [--seconds 3]
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/load/common.sh

seconds=3
[ "${1:-}" != --seconds ] || { seconds=$2; shift 2; }
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 64; }

mkdir -p "$HOLT_BENCH_DIR"
DATA=$HOLT_BENCH_DIR/fair.holt
FILES+=("$DATA" "$DATA.sock" "$DATA.log")
trap '[ -z "$DAEMON" ] || kill "$DAEMON"; wait; rm -f "${FILES[@]}"' EXIT
machine
for listener in native nng; do
    rm -f "${FILES[@]}"
    "$HOLT" format "$DATA" >/dev/null
    "$HOLT" start "$DATA" --listener $listener --socket-mode 0666 2>"$DATA.log" &
    DAEMON=$!
    "$HOLT" ping --wait "$START_TIMEOUT_S" --socket "$DATA.sock" >/dev/null
    printf '\n%s\n' "$listener"
    "$(dirname "$HOLT")/fair_load" "$DATA.sock" "$seconds"
    kill "$DAEMON"
    wait "$DAEMON"
    DAEMON=
done
