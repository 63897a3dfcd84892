#!/usr/bin/env bash
# Goal: no data race in the real process, behind either listener, while clients write and read, tables
# merge, checkpoints are taken and the daemon stops. For a daemon that ThreadSanitizer watches, which
# ends with exit code 66 at the first race: `./dev test` and, for longer, `./dev soak` run it so.
#
# LOAD_MS of load behind each listener, SEED=n for the same choices again.
. "$(dirname "$0")/common.sh"

LOAD_MS=${LOAD_MS:-4000}
SEED=${SEED:-$(date +%s)}
TOOLS=${HOLT_TOOLS:-$(dirname "$HOLT")}
printf '# SEED=%d LOAD_MS=%d\n' "$SEED" "$LOAD_MS"

for listener in nng native; do
    file=$listener.holt
    "$HOLT" format "$file" --block-size 4K >/dev/null
    daemon_start "$file" --cache 8M --workers 2 --listener $listener
    "$HOLT" create cells 'key u32, grp u32, value u64, filler bytes<80>, index by_group (grp)' \
        --socket "$file.sock" >/dev/null
    "$HOLT" stat --socket "$file.sock" >/dev/null &
    seen=$("$TOOLS/history_client" load "$file.sock" history "$SEED" "$LOAD_MS" 2>>client.log) ||
        not_ok "$listener: the clients" "$(tail -n 20 client.log)"
    "$TOOLS/history_client" final "$file.sock" history 2>>client.log ||
        not_ok "$listener: everything can be read" "$(tail -n 20 client.log)"
    "$HOLT" stat --json --socket "$file.sock" >stat.json
    code=0
    daemon_stop TERM || code=$?
    [ $code = 0 ] || sed 's/^/    /' daemon.log
    same "$listener: $seen" $code 0
    verdict=$("$TOOLS/history_client" check history) || not_ok "$listener: the history" "$verdict"
    same "$listener: there were checkpoints" \
        "$(python3 -c 'import json; print(json.load(open("stat.json"))["checkpoint"]["op"] > 0)')" True
    rm history
done
exit $FAILED
