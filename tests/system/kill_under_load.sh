#!/usr/bin/env bash
# Goal: whenever a daemon under load is killed, all that it acknowledged is there afterwards, each
# write wholly or not at all, and what was removed stays removed. kill_client.c writes, kills and
# compares; here daemons are started, with 0 to 4 workers and either listener, and some are killed
# again while they recover. Every tenth time `holt verify` looks at the file as the kill left it. Beside
# kill_client, history_client writes and reads a groove of its own; what it saw over all kills is one
# history, which is checked at the end.
#
# HOLT_LISTENER=nng or native for that one only. KILLS=1000 for a long campaign, SEED=n for the same choices again (moments are never the same).
# A failure keeps the directory with the data file and the logs.
. "$(dirname "$0")/common.sh"

KILLS=${KILLS:-60}
SEED=${SEED:-$(date +%s)}
TOOLS=${HOLT_TOOLS:-$(dirname "$HOLT")}
FILE=a.holt
LOAD_MS_MAX=20000 # Longer than any load: the kill ends it.
HISTORY_PID=
RANDOM=$((SEED % 32768))
printf '# SEED=%d KILLS=%d\n' "$SEED" "$KILLS"

# The client would wait for commands as long as this script lives.
trap 'kill -KILL ${CLIENT_PID:-} $HISTORY_PID 2>/dev/null; cleanup' EXIT

# Whatever is wrong ends the test: what follows would only hide where it began.
fail()
{
    not_ok "$@"
    printf '# SEED=%d; all is kept in %s\n' "$SEED" "$WORK"
    tail -n 20 client.log daemon.log | sed 's/^/    /'
    trap - EXIT
    [ -z "$HISTORY_PID" ] || kill -KILL "$HISTORY_PID"
    [ -z "$DAEMON" ] || kill -KILL "$DAEMON"
    exit 1
}

daemon_start_any()
{
    local listeners=(nng native)
    WORKERS=$((1 << RANDOM % 4 >> 1)) # 0, 1, 2, 4
    LISTENER=${HOLT_LISTENER:-${listeners[RANDOM % 2]}}
    "$HOLT" start $FILE --cache 8M --workers $WORKERS --listener "$LISTENER" 2>>daemon.log &
    DAEMON=$!
}

daemon_wait_ready()
{
    "$HOLT" ping --wait 120 --socket $FILE.sock >/dev/null 2>&1 || fail "$1: the daemon starts"
}

# ask NAME COMMAND: gives kill_client a command; its numbers are in $ANSWER.
ask()
{
    local verdict
    echo "$2" >&"${CLIENT[1]}"
    read -r -t 300 -u "${CLIENT[0]}" verdict ANSWER || verdict="no answer"
    [ "$verdict" = good ] || fail "$1: $2" "$verdict"
}

# The daemon has been killed by kill_client, and did not die of anything else before.
daemon_gone()
{
    local code=0
    wait "$DAEMON" 2>/dev/null || code=$?
    DAEMON=
    [ $code = 137 ] || fail "$1: the daemon ran until it was killed" "exit code $code"
}

# Small blocks have small bars: checkpoints and merges are never far.
"$HOLT" format $FILE --block-size 8K >/dev/null
daemon_start_any
daemon_wait_ready "first"
"$HOLT" create batches 'batch u64, generation u32, position u32, filler bytes<80>,
    index by_batch (batch), index by_generation (batch, generation)' \
    --socket $FILE.sock >/dev/null
coproc CLIENT { exec "$TOOLS/kill_client" $FILE.sock "$SEED" 2>>client.log; }
ask "first" check # So it has found its groove, the only one by then.
"$HOLT" create cells 'key u32, grp u32, value u64, filler bytes<80>, index by_group (grp)' \
    --socket $FILE.sock >/dev/null

acknowledged=0
recoveries_cut=0
for ((round = 1; round <= KILLS; round++)); do
    "$TOOLS/history_client" load $FILE.sock history $round $LOAD_MS_MAX >>client.log 2>&1 &
    HISTORY_PID=$!
    ask "kill $round" "load $DAEMON"
    daemon_gone "kill $round"
    wait $HISTORY_PID || fail "kill $round: the history's client"
    HISTORY_PID=
    read -r written unanswered <<<"$ANSWER"
    acknowledged=$((acknowledged + written))

    if [ $((round % 10)) = 0 ]; then
        expect "kill $round: holt verify" 0 "no problems" "$HOLT" verify $FILE
        [ $FAILED = 0 ] || fail "kill $round: the file as it was left"
    fi
    if [ $((RANDOM % 3)) = 0 ]; then
        daemon_start_any
        ask "kill $round" "kill $DAEMON"
        daemon_gone "kill $round, while starting"
        recoveries_cut=$((recoveries_cut + 1))
    fi
    daemon_start_any
    daemon_wait_ready "kill $round"
    ask "kill $round" check
    ok "kill $round: $written writes, $unanswered unanswered, $ANSWER objects, $WORKERS workers, $LISTENER"
done

"$HOLT" stat --json --socket $FILE.sock >stat.json
checkpoints=$(python3 -c 'import json
print(json.load(open("stat.json"))["checkpoint"]["op"])')
if [ "$checkpoints" -gt 0 ]; then ok "there were checkpoints"; else fail "there were checkpoints"; fi
daemon_stop TERM || fail "a clean stop" "exit code $?"
expect "verify after a clean stop" 0 "no problems" "$HOLT" verify $FILE
[ $FAILED = 0 ] || fail "the file as it was left"
daemon_start_any
daemon_wait_ready "last"
ask "last" check
ok "all is there after a clean stop"
"$TOOLS/history_client" final $FILE.sock history 2>>client.log || fail "everything can be read"
verdict=$("$TOOLS/history_client" check history) || fail "the history of all kills" "$verdict"
ok "the history of all kills: $verdict"
printf '# %d kills under load, %d more while recovering, %d acknowledged writes\n' \
    "$KILLS" "$recoveries_cut" "$acknowledged"
exit $FAILED
