#!/usr/bin/env bash
# What Holt adds to a durable echo: the same requests, one insert of 128 bytes each, to Holt on each
# of its listeners, and to echo servers that write each batch they have read with one durable call
# and answer. All run at once and are asked in turns, so that whatever else the machine does meets
# all; ratios are of one round, and their median is told.
#
#   benchmarks/ipc.sh [--report-only] [--rounds 5] [--seconds 2] [--objects 100K]
#                     [--block-size 32K] [--checkpoints 0]
#
# --objects: how many are in the file before (10M: a grown file). --checkpoints: at the end, to each
# daemon, started anew, 32 clients write until so many checkpoints were made; told is by how much the
# slowest request was slower than the slowest durable write.
#
# Beside each number that something was asked of (benchmarks/README.md) stands whether it is met; if
# not, the exit code is 1, unless it is only to report. What is asked of 32 clients is asked on 10M.
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/load/common.sh

BUILD=$(dirname "$HOLT")
rounds=5 seconds=2 objects=100K block_size=32K checkpoints=0 report_only='' missed=''
[ "${1:-}" != --report-only ] || { report_only=1; shift; }
while [ $# -ge 2 ]; do
    case $1 in
    --rounds) rounds=$2 ;;
    --seconds) seconds=$2 ;;
    --objects) objects=$2 ;;
    --block-size) block_size=$2 ;;
    --checkpoints) checkpoints=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 64; }
objects=$(number "$objects")

declare -A pids sockets values
names=(raw nng holt-native holt-nng)
first=1000000000000 # number of the next run's first object

stop_all()
{
    local name
    for name in "${!pids[@]}"; do
        kill -TERM "${pids[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    [ "${KEEP:-0}" = 1 ] || rm -f "${FILES[@]}"
}

# start NAME: its daemon, ready, with its memory populated: that takes a processor for seconds.
start()
{
    local name=$1 faults before=-1
    local data=$HOLT_BENCH_DIR/ipc-${name#holt-}.holt
    "$HOLT" start "$data" --listener "${name#holt-}" >>"$data.log" 2>&1 &
    pids[$name]=$!
    "$HOLT" ping --wait "$START_TIMEOUT_S" --socket "${sockets[$name]}" >/dev/null
    faults=$(cut -d' ' -f10 "/proc/${pids[$name]}/stat")
    while [ "$faults" != "$before" ]; do
        sleep 0.5
        before=$faults
        faults=$(cut -d' ' -f10 "/proc/${pids[$name]}/stat")
    done
}

mkdir -p "$HOLT_BENCH_DIR"
trap stop_all EXIT
machine

for name in raw nng; do
    sockets[$name]=$HOLT_BENCH_DIR/echo-$name.sock
    FILES+=("$HOLT_BENCH_DIR/echo-$name.file" "$HOLT_BENCH_DIR/echo-$name.out")
    rm -f "${sockets[$name]}"
    server=(echo_raw)
    [ "$name" = raw ] || server=(echo_listener)
    "$BUILD/${server[0]}" "${sockets[$name]}" "$HOLT_BENCH_DIR/echo-$name.file" \
        >"$HOLT_BENCH_DIR/echo-$name.out" &
    pids[$name]=$!
done
for listener in native nng; do
    name=holt-$listener
    data=$HOLT_BENCH_DIR/ipc-$listener.holt
    sockets[$name]=$data.sock
    FILES+=("$data" "$data.sock" "$data.log")
    rm -f "$data" "$data.sock" "$data.log"
    "$HOLT" format "$data" --block-size "$block_size" >/dev/null
    start "$name"
    "$HOLT_LOAD" "${sockets[$name]}" --json --count "$objects" >/dev/null 2>&1 ||
        fail "the load of $name failed"
done
for name in raw nng; do
    while [ ! -S "${sockets[$name]}" ]; do
        kill -0 "${pids[$name]}" 2>/dev/null || fail "the echo server '$name' did not start"
        sleep 0.02
    done
done

# ask SCENARIO NAME FLAGS...: one run, its numbers in values.
ask()
{
    local scenario=$1 name=$2 result key
    shift 2
    [[ $name == holt-* ]] || set -- "$@" --echo
    result=$("$BUILD/ipc_load" "${sockets[$name]}" --seconds "$seconds" --first "$first" "$@") ||
        fail "$scenario: $name"
    first=$((first + 1000000000000))
    for key in rate p50_us p99_us p999_us max_us busy; do
        values[$scenario/$name/$key]+="$(field $key <<<"$result") "
    done
}

# shellcheck disable=SC2086 # The numbers are words.
of() { median ${values[$1]}; }

# worst LIST: the largest.
# shellcheck disable=SC2086
worst() { printf '%s\n' ${values[$1]} | sort -g | tail -n 1; }

# ratio A B: the median of the rounds' ratios.
ratio()
{
    paste -d' ' <(tr ' ' '\n' <<<"${values[$1]}") <(tr ' ' '\n' <<<"${values[$2]}") |
        awk 'NF == 2 && $2 > 0 {print $1 / $2}' | sort -g |
        awk '{v[NR] = $1} END {printf "%.2f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}

# verdict VALUE '<= 1.3': what is asked, and whether it is met.
verdict()
{
    if [ "$(calculate "($1 $2)" %d)" = 1 ]; then
        printf ' (asked: %s, met)' "$2"
    else
        printf ' (asked: %s, NOT MET)' "$2"
        missed=1
    fi
}

# scenario TITLE [median|rate BOUND PAIR]... ECHO:HOLT... -- FLAGS...: what is asked of which pair,
# which are compared.
scenario()
{
    local title=$1 pair pairs=() round name asked=() median rate
    local -A bounds=()
    shift
    while [[ $1 == median || $1 == rate ]]; do
        bounds[$1/$3]=$2
        shift 3
    done
    while [ "$1" != -- ]; do
        pairs+=("$1")
        for name in "${1%%:*}" "${1##*:}"; do
            [[ " ${asked[*]} " == *" $name "* ]] || asked+=("$name")
        done
        shift
    done
    shift
    for ((round = 0; round < rounds; round++)); do
        for name in "${asked[@]}"; do
            ask "$title" "$name" "$@"
        done
    done
    printf '\n%s\n%-14s %9s %9s %9s %9s %10s %6s\n' "$title" server requests/s 'p50 us' 'p99 us' \
        'p99.9 us' 'max us' busy
    for name in "${names[@]}"; do
        if [[ " ${asked[*]} " == *" $name "* ]]; then
            printf '%-14s %9.0f %9.1f %9.1f %9.1f %10.1f %6.0f\n' "$name" \
                "$(of "$title/$name/rate")" "$(of "$title/$name/p50_us")" \
                "$(of "$title/$name/p99_us")" "$(of "$title/$name/p999_us")" \
                "$(worst "$title/$name/max_us")" "$(worst "$title/$name/busy")"
        fi
    done
    for pair in "${pairs[@]}"; do
        median=$(ratio "$title/${pair##*:}/p50_us" "$title/${pair%%:*}/p50_us")
        rate=$(ratio "$title/${pair##*:}/rate" "$title/${pair%%:*}/rate")
        printf '%-14s of %s: median %s x' "${pair##*:}" "${pair%%:*}" "$median"
        [ -z "${bounds[median/$pair]:-}" ] || verdict "$median" "${bounds[median/$pair]}"
        printf ', rate %s x' "$rate"
        [ -z "${bounds[rate/$pair]:-}" ] || verdict "$rate" "${bounds[rate/$pair]}"
        printf '\n'
    done
}

grown=()
[ "$objects" -lt 10000000 ] || grown=(rate '>= 0.7' raw:holt-native rate '>= 0.7' nng:holt-nng)

scenario "one synchronous client" raw:holt-native nng:holt-nng --
scenario "one synchronous client of nng's" median '<= 1.3' nng:holt-nng \
    nng:holt-nng raw:holt-native -- --client nng
scenario "one synchronous client of libholt" median '<= 1.3' raw:holt-native \
    raw:holt-native -- --client libholt
scenario "32 synchronous clients" "${grown[@]}" raw:holt-native raw:holt-nng nng:holt-nng -- --clients 32
scenario "one client with 64 in flight" rate '>= 0.6' nng:holt-nng \
    raw:holt-native raw:holt-nng nng:holt-nng -- --in-flight 64
scenario "one client of libholt with 64 in flight" rate '>= 0.6' raw:holt-native \
    raw:holt-native -- --in-flight 64 --client libholt

table_count() { sed -n 's/.*"tables":{"count":\([0-9]*\).*/\1/p'; }
checkpoint_count() { sed -n 's/.*"checkpoint":{[^}]*"count":\([0-9]*\).*/\1/p'; }

# across NAME: 32 clients, until enough checkpoints were made.
across()
{
    local name=$1 made=0 slowest=0 stat result
    kill -TERM "${pids[$name]}"
    wait "${pids[$name]}" || fail "$name did not stop cleanly"
    start "$name"
    local before
    before=$(checkpoint_count <<<"$("$HOLT" stat --socket "${sockets[$name]}" --json)")
    while [ "$made" -lt "$checkpoints" ]; do
        result=$("$BUILD/ipc_load" "${sockets[$name]}" --seconds 5 --first "$first" --clients 32)
        first=$((first + 1000000000000))
        slowest=$(printf '%s\n' "$slowest" "$(field max_us <<<"$result")" | sort -g | tail -n 1)
        stat=$("$HOLT" stat --socket "${sockets[$name]}" --json)
        made=$(($(checkpoint_count <<<"$stat") - before))
    done
    local write more
    write=$(field write_max_us <<<"$stat")
    more=$(calculate "($slowest - $write) / 1000" %.1f)
    printf '%-28s slowest request %s us, slowest durable write %s us: %s ms more' \
        "$name, $made checkpoints" "$slowest" "$write" "$more"
    verdict "$more" '<= 50'
    printf '\n'
}

if [ "$checkpoints" -gt 0 ]; then
    printf '\n'
    across holt-native
    across holt-nng
fi

printf '\n'
for name in holt-native holt-nng; do
    stat=$("$HOLT" stat --socket "${sockets[$name]}" --json)
    row "$name" "$(table_count <<<"$stat") tables, $(field beat_overrun_total <<<"$stat") beats over plan"
done
for name in raw nng; do
    kill -TERM "${pids[$name]}"
    wait "${pids[$name]}" || fail "echo $name"
    row "durable writes of $name" "$(field writes <"$HOLT_BENCH_DIR/echo-$name.out"), mean $(
        field write_mean_us <"$HOLT_BENCH_DIR/echo-$name.out") us, slowest $(
        field write_max_us <"$HOLT_BENCH_DIR/echo-$name.out") us"
    unset "pids[$name]"
done
[ -z "$missed" ] || {
    printf '\nnot all that is asked is met\n'
    [ -n "$report_only" ]
}
