# Sourced by the scripts beside it. Each case prints "ok NAME" or "not ok NAME"; a script exits 1
# when one of its cases failed. $HOLT is the program under test.
# shellcheck shell=bash disable=SC2034 # Its variables are theirs.
set -u

HOLT=${HOLT:?set HOLT to the path of the holt program}
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/holt-system.XXXXXX")
FAILED=0
DAEMON=

cleanup()
{
    [ -z "$DAEMON" ] || kill -KILL "$DAEMON" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$WORK" || exit 1
unset HOLT_SOCKET HOLT_CONFIG

ok() { printf 'ok %s\n' "$1"; }
not_ok()
{
    printf 'not ok %s\n' "$1"
    shift
    [ $# -eq 0 ] || printf '%s\n' "$*" | sed 's/^/    /'
    FAILED=1
}

# expect NAME CODE TEXT COMMAND...: the command exits with CODE and says TEXT (a part of stdout or
# stderr; "" = anything).
expect()
{
    local name=$1 code=$2 text=$3 output got=0
    shift 3
    output=$("$@" 2>&1) || got=$?
    if [ "$got" != "$code" ]; then
        not_ok "$name" "exit code $got, not $code:" "$output"
    elif [ -n "$text" ] && [[ $output != *"$text"* ]]; then
        not_ok "$name" "does not say '$text':" "$output"
    else
        ok "$name"
    fi
}

# same NAME GOT WANTED
same()
{
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "got '$2', wanted '$3'"; fi
}

# daemon_start FILE [flags]: in the background, its log in daemon.log; waits until it answers.
daemon_start()
{
    "$HOLT" start "$@" 2>>daemon.log &
    DAEMON=$!
    if ! "$HOLT" ping --wait 120 --socket "$1.sock" >/dev/null; then
        not_ok "the daemon starts" "$(tail -n 20 daemon.log)"
        exit 1
    fi
}

# daemon_stop SIGNAL: returns the daemon's exit code.
daemon_stop()
{
    local code=0
    kill -"$1" "$DAEMON"
    wait "$DAEMON" 2>/dev/null || code=$?
    DAEMON=
    return $code
}
