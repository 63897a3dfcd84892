#!/usr/bin/env bash
# Goal: docs/protocol.md is enough. A client that was written from that page alone, with nothing of
# ours in it, meets daemons in every condition, on both listeners, and gets what the page says:
# every documented result at least once.
. "$(dirname "$0")/common.sh"

CLIENT=$REPOSITORY/tests/system/independent_client.py
PAGE=$REPOSITORY/docs/protocol.md
read -ra LISTENERS <<<"${HOLT_LISTENER:-native nng}"
export PYTHONDONTWRITEBYTECODE=1

# meet MODE ARGUMENT...: what the client finds, under the listener's name.
meet()
{
    local output code=0
    output=$(timeout 120 "$CLIENT" "$@" 2>&1) || code=$?
    sed -E "s/^(ok|not ok) /&$listener: /" <<<"$output"
    [ $code = 0 ] && ! grep -q '^not ok ' <<<"$output" && return
    FAILED=1
    grep -q '^not ok ' <<<"$output" || not_ok "$listener: $1" "exit code $code"
}

new_file()
{
    rm -f a.holt
    "$HOLT" format a.holt --block-size 8K >/dev/null
}

# Spoils the values of objects and of indexes in the grid, but not those of ids; says how many blocks.
damage()
{
    python3 - a.holt <<'TEXT'
import struct, sys
with open(sys.argv[1], "r+b") as file:
    file.seek(88)
    block_size, = struct.unpack("<I", file.read(4))
    file.seek(88 + 24)
    journal_size, = struct.unpack("<Q", file.read(8))
    step = max(1 << 20, block_size)
    at = (65536 + journal_size + step - 1) // step * step
    damaged = 0
    while True:
        file.seek(at)
        block = file.read(128)
        if len(block) < 128:
            break
        if block[48] == 5 and block[40] in (8, 24):
            file.seek(at + 128)
            file.write(b"damage")
            damaged += 1
        at += block_size
print(damaged)
TEXT
}

for listener in "${LISTENERS[@]}"; do
    export SEEN=$WORK/seen.$listener
    : >"$SEEN"
    start=(daemon_start a.holt --listener "$listener" --cache 8M)

    new_file
    "${start[@]}"
    meet main "$WORK/a.holt.sock"
    meet busy "$WORK/a.holt.sock"
    meet before "$WORK/a.holt.sock" "$WORK/state"
    daemon_stop KILL
    "${start[@]}"
    meet after "$WORK/a.holt.sock" "$WORK/state"
    meet stop "$WORK/a.holt.sock" "$DAEMON"
    wait "$DAEMON" || not_ok "$listener: the daemon stops cleanly" "exit code $?"
    DAEMON=

    new_file
    "${start[@]}" --read-budget 1M
    meet budget "$WORK/a.holt.sock"
    daemon_stop TERM

    new_file
    echo 'allow = * read item' >denied.conf
    "${start[@]}" --config denied.conf
    meet denied "$WORK/a.holt.sock"
    daemon_stop TERM

    new_file
    trap '' XFSZ # The limit is told as an error then, as a full disk is.
    ulimit -S -f $((170 * 1024))
    "${start[@]}"
    ulimit -S -f unlimited
    trap - XFSZ
    meet full "$WORK/a.holt.sock"
    daemon_stop KILL

    new_file
    "${start[@]}"
    meet fill "$WORK/a.holt.sock" 80000
    damaged=$(damage) # Under the daemon's feet: a recovery would stumble over it.
    [ "$damaged" -gt 100 ] || not_ok "$listener: blocks were damaged" "$damaged"
    meet damaged "$WORK/a.holt.sock" 80000
    daemon_stop KILL

    # What no client can bring about: a state that no daemon of this version has, a failure of the
    # daemon itself, and what depends on the moment.
    meet table "$PAGE" STALE_SCHEMA INTERNAL OVERTAKEN BUSY SHUTTING_DOWN \
        event.CORRUPT
done
exit $FAILED
