#!/usr/bin/env bash
# What others cost a modest user, on each listener: how long his answers take alone and beside floods,
# long scans, clients that do not read, that die, that connect for nothing, 2,000 connections; and what
# the machine itself then costs a durable echo. As root, so that they are two users.
# Ends with exit code 1 if his median beside an attack was more than 2 x max(1, the echo's ratio) of
# what it is alone, unless it is only to report.
#
#   benchmarks/fair.sh [--report-only] [--rounds 3] [--ms 1000] [--only PART_OF_A_NAME]
#                      [--listeners 'native nng']
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/load/common.sh

rounds=3 ms=1000 only='' listeners='native nng' report_only='' outside=
[ "${1:-}" != --report-only ] || { report_only=1; shift; }
while [ $# -ge 2 ]; do
    case $1 in
    --rounds) rounds=$2 ;;
    --ms) ms=$2 ;;
    --only) only=$2 ;;
    --listeners) listeners=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 64; }

ulimit -n "$(ulimit -H -n)"
mkdir -p "$HOLT_BENCH_DIR"
DATA=$HOLT_BENCH_DIR/fair.holt
FILES+=("$DATA" "$DATA.sock" "$DATA.log")
trap '[ -z "$DAEMON" ] || kill "$DAEMON"; wait; rm -f "${FILES[@]}"' EXIT
machine
for listener in $listeners; do
    rm -f "${FILES[@]}"
    "$HOLT" format "$DATA" >/dev/null
    "$HOLT" start "$DATA" --listener "$listener" --socket-mode 0666 \
        --connections 2400 2>"$DATA.log" &
    DAEMON=$!
    "$HOLT" ping --wait "$START_TIMEOUT_S" --socket "$DATA.sock" >/dev/null
    printf '\n%s\n' "$listener"
    "$(dirname "$HOLT")/fair_load" "$DATA.sock" "$rounds" "$ms" "$only" || {
        [ $? = 2 ]
        outside=1
    }
    kill "$DAEMON"
    wait "$DAEMON"
    DAEMON=
done
[ -z "$outside" ] || {
    printf '\nnot within 2x beside each attack\n'
    [ -n "$report_only" ]
}
