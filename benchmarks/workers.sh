#!/usr/bin/env bash
# Do the workers overlap with the forest thread? The same load with and without them, in turns, so
# that whatever else the machine does meets both.
#
#   benchmarks/workers.sh [--count 4M] [--runs 3] [--workers '0 2'] [--block-size 32K]
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/load/common.sh

count=4M runs=3 workers='0 2' block_size=32K
while [ $# -ge 2 ]; do
    case $1 in
    --count) count=$2 ;;
    --runs) runs=$2 ;;
    --workers) workers=$2 ;;
    --block-size) block_size=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 64; }
count=$(number "$count")
declare -A speeds slowest

prepare workers
machine
printf '\n%s objects of 128 bytes, 3 indexes, blocks of %s\n\n' "$count" "$block_size"
printf '%4s %8s %11s %9s %9s %9s  %s\n' run workers objects/s 'p50 ms' 'p99 ms' 'max ms' 'blocks written'
for ((run = 1; run <= runs; run++)); do
    for w in $workers; do
        prepare workers
        "$HOLT" format "$DATA" --block-size "$block_size" >/dev/null
        daemon_start --workers "$w"
        result=$(load --count "$count" 2>/dev/null)
        daemon_stop
        speed=$(field insert_per_s <<<"$result")
        speeds[$w]+="$speed "
        slowest[$w]+="$(field insert_max_ms <<<"$result") "
        printf '%4d %8d %11.0f %9.2f %9.2f %9.2f  %s\n' "$run" "$w" "$speed" \
            "$(field insert_p50_ms <<<"$result")" "$(field insert_p99_ms <<<"$result")" \
            "$(field insert_max_ms <<<"$result")" "$(field blocks_written <<<"$result")"
    done
done

printf '\n%8s %11s %9s  %s\n' workers 'median/s' 'max ms' 'of the first'
first=
for w in $workers; do
    # shellcheck disable=SC2086 # The numbers are words.
    speed=$(median ${speeds[$w]})
    first=${first:-$speed}
    # shellcheck disable=SC2086
    printf '%8d %11.0f %9.2f  %s x\n' "$w" "$speed" "$(median ${slowest[$w]})" \
        "$(calculate "$speed / $first")"
done
