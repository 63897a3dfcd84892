# What the scripts of benchmarks/ share; sourced by them, from the root of the repository.
#
#   HOLT, HOLT_LOAD    the executables (build/release/...)
#   HOLT_BENCH_DIR     where data files go: a real disk, not tmpfs (build/bench)
#   KEEP=1             leave the data files there
# shellcheck shell=bash

HOLT=${HOLT:-build/release/holt}
HOLT_LOAD=${HOLT_LOAD:-build/release/holt_load}
HOLT_BENCH_DIR=${HOLT_BENCH_DIR:-build/bench}
START_TIMEOUT_S=120

DAEMON=   # pid, while it runs
DATA=     # file
SOCKET=   # of the daemon
LOG=      # of the daemon
START_MS= # from the start of the process to its first answer
FILES=()  # to be removed at the end

fail()
{
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Numbers may end in K or M: thousands and millions, as people count objects.
number()
{
    local text=$1
    case $text in
    *K) text=${text%K}000 ;;
    *M) text=${text%M}000000 ;;
    esac
    [[ $text =~ ^[0-9]+$ ]] || fail "'$1' is not a number"
    printf '%s' "$text"
}

# field NAME <<<JSON: the number behind a name that is found once.
field() { sed -n 's/.*"'"$1"'":\([-0-9.]*\).*/\1/p'; }

# list NAME <<<JSON: likewise an array of numbers, with blanks between them.
list() { sed -n 's/.*"'"$1"'":\[\([0-9,]*\)\].*/\1/p' | tr ',' ' '; }

# calculate EXPRESSION FORMAT: shell arithmetic has no fractions.
calculate() { awk "BEGIN {printf \"${2:-%.2f}\", $1}"; }

# median NUMBER...
median()
{
    printf '%s\n' "$@" | sort -g |
        awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}

machine()
{
    local cpu memory
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    memory=$(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)
    printf '# %s, %s x %s, %s, Linux %s, %s on %s, commit %s\n' "$(date -u +%F)" "$(nproc)" \
        "$cpu" "$memory" "$(uname -r)" "$HOLT_BENCH_DIR" \
        "$(df --output=fstype "$HOLT_BENCH_DIR" | tail -n 1)" \
        "$(git rev-parse --short HEAD 2>/dev/null || printf unknown)"
}

daemon_kill()
{
    [ -n "$DAEMON" ] || return 0
    kill -KILL "$DAEMON" 2>/dev/null || true
    wait "$DAEMON" 2>/dev/null || true
    DAEMON=
}

daemon_stop()
{
    local code=0
    kill -TERM "$DAEMON"
    wait "$DAEMON" || code=$?
    DAEMON=
    [ "$code" = 0 ] || { tail -n 20 "$LOG" >&2; fail "the daemon ended with code $code"; }
}

clean_up()
{
    daemon_kill
    [ "${KEEP:-0}" = 1 ] || rm -f "${FILES[@]}"
}

# prepare NAME: a place for the data file of that name, which does not exist yet.
prepare()
{
    [ -x "$HOLT" ] && [ -x "$HOLT_LOAD" ] ||
        fail "there is no $HOLT or $HOLT_LOAD; 'cmake --preset release && cmake --build build/release'"
    mkdir -p "$HOLT_BENCH_DIR"
    DATA=$HOLT_BENCH_DIR/$1.holt
    SOCKET=$DATA.sock
    LOG=$DATA.log
    rm -f "$DATA" "$SOCKET" "$LOG"
    FILES+=("$DATA" "$SOCKET" "$LOG")
    trap clean_up EXIT
}

# daemon_start FLAGS...: and waits until it answers.
daemon_start()
{
    local begin end
    begin=$(date +%s%N)
    "$HOLT" start "$DATA" --socket "$SOCKET" "$@" >>"$LOG" 2>&1 &
    DAEMON=$!
    "$HOLT" ping --wait "$START_TIMEOUT_S" --socket "$SOCKET" >/dev/null || {
        tail -n 20 "$LOG" >&2
        fail "the daemon does not answer"
    }
    end=$(date +%s%N)
    START_MS=$(((end - begin) / 1000000))
}

# load FLAGS...: runs the generator, whose JSON goes to stdout.
load()
{
    "$HOLT_LOAD" "$SOCKET" --json "$@" || {
        tail -n 20 "$LOG" >&2
        fail "the load failed"
    }
}

stat_json() { "$HOLT" stat --socket "$SOCKET" --json; }

# live_blocks <<<"$(stat_json)"
live_blocks()
{
    local stat acquired released
    stat=$(cat)
    acquired=$(field blocks_acquired <<<"$stat")
    released=$(field blocks_released <<<"$stat")
    printf '%s' $((acquired - released))
}

row() { printf '%-28s %s\n' "$1" "$2"; }
