#!/usr/bin/env bash
# The big load: many objects through the socket, then SIGKILL under load, recovery, verify.
#
#   benchmarks/load.sh [--count 20M] [--block-size 32K] [--workers W] [--kills 3] [--seed S]
#                      [--clients 2] [--in-flight 2]
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/load/common.sh

count=20M block_size=32K kills=3 seed=1 clients=2 in_flight=2
start_flags=()
while [ $# -ge 2 ]; do
    case $1 in
    --count) count=$2 ;;
    --block-size) block_size=$2 ;;
    --workers) start_flags+=(--workers "$2") ;;
    --kills) kills=$2 ;;
    --seed) seed=$2 ;;
    --clients) clients=$2 ;;
    --in-flight) in_flight=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 64; }
count=$(number "$count")
shape=(--seed "$seed" --clients "$clients" --in-flight "$in_flight")

prepare load
machine
"$HOLT" format "$DATA" --block-size "$block_size" >/dev/null
plan=$("$HOLT" start "$DATA" --socket "$SOCKET" "${start_flags[@]}" --plan --json)
daemon_start "${start_flags[@]}"

result=$(load --count "$count" "${shape[@]}")
get() { field "$1" <<<"$result"; }
forest_plan=$(field forest_size <<<"$plan")
message_plan=$(field message_size <<<"$plan")
rss=$(get rss_max)

printf '\n%s objects of 128 bytes, 3 indexes, blocks of %s\n\n' "$count" "$block_size"
row "objects/s" "$(get insert_per_s)"
row "seconds" "$(get insert_seconds)"
row "batches" "$(get insert_batches)"
row "batch p50 / p99 / p99.9 ms" "$(get insert_p50_ms) / $(get insert_p99_ms) / $(get insert_p999_ms)"
row "slowest batch ms" "$(get insert_max_ms), $(get insert_max_ratio) x the median"
row "checkpoints" "$(get checkpoints)"
row "levels in use" "$(get levels)  (tables: $(list tables_by_level <<<"$result"))"
row "blocks written" "$(get blocks_written), $(get grid_gb) GB; journal $(get journal_gb) GB"
row "write amplification" "$(get amplification)"
row "blocks live" "$(get blocks_live), $(calculate "$(get blocks_live) * $(get block_size) / 1e9") GB"
row "beats over plan" "$(get beat_overruns); longest wait $(get beat_wait_max_ms) ms"
row "memory at most" "$(calculate "$rss / 1048576" %.1f) MiB"
row "memory plan" "$(calculate "$forest_plan / 1048576" %.1f) MiB forest + $(calculate "$message_plan / 1048576" %.1f) MiB messages"

# Each time, more objects are on their way when the daemon is killed, a little later than before:
# how much there is to replay depends on how long ago the last checkpoint was. What was acknowledged
# must be there afterwards.
acknowledged=$count
for ((i = 1; i <= kills; i++)); do
    printf '\nSIGKILL %d of %d, under load\n' "$i" "$kills"
    "$HOLT_LOAD" "$SOCKET" --json --count "$((count + 1000000))" --first "$((i * 10 ** 10))" \
        "${shape[@]}" >"$DATA.killed" 2>/dev/null &
    loader=$!
    FILES+=("$DATA.killed")
    sleep "$((i + 1))"
    kill -0 "$loader" 2>/dev/null || fail "the load was over before the daemon was killed"
    daemon_kill
    wait "$loader" && fail "the load did not notice that the daemon was killed"
    acknowledged=$((acknowledged + $(field insert_objects <"$DATA.killed")))
    if [ "$i" = "$kills" ]; then
        "$HOLT" verify "$DATA" || fail "verify found damage after SIGKILL"
    fi
    daemon_start "${start_flags[@]}"
    row "reopened in ms" "$START_MS"
    row "recovered" "$(grep -a 'forest.recovered' "$LOG" | tail -n 1 | sed 's/.*forest.recovered *//')"
    found=$("$HOLT" count load --socket "$SOCKET" --json | field count)
    row "objects" "$found found, $acknowledged acknowledged"
    [ "$found" -ge "$acknowledged" ] || fail "acknowledged objects are missing"
    acknowledged=$found
done

printf '\nstopped by SIGTERM\n'
daemon_stop
"$HOLT" verify "$DATA" || fail "verify found damage"
