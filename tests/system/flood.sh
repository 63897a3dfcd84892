#!/usr/bin/env bash
# Goal: whoever floods, asks for long scans, does not read, dies at any byte or connects for nothing, is
# not felt by others more than a fair turn, and leaves descriptors and threads of the daemon as they were;
# on both listeners. flood_client.c attacks and counts. And many restarts, clean ones and kills,
# leave each daemon as the first was: same descriptors, same threads, at the socket that the one before
# left behind. RESTARTS=n for more of them.
. "$(dirname "$0")/common.sh"

TOOLS=${HOLT_TOOLS:-$(dirname "$HOLT")}
RESTARTS=${RESTARTS:-60}
chmod 0755 "$WORK" # Other users come through here to the socket.
ulimit -n "$(ulimit -H -n)"

for listener in native nng; do
    file=$listener.holt
    "$HOLT" format "$file" --block-size 32K >/dev/null
    daemon_start "$file" --cache 16M --listener $listener --socket-mode 0666 --requests 512 \
        --connections 1500 --send-timeout-ms 100
    while read -r line; do
        printf '%s\n' "${line/ok /ok $listener: }"
        case $line in not*) FAILED=1 ;; esac
    done < <("$TOOLS/flood_client" "$WORK/$file.sock" "$DAEMON" ||
        printf 'not ok flood_client ends with %d\n' $?)
    code=0
    daemon_stop TERM || code=$?
    same "$listener: a clean stop" $code 0
done

# ---- Restarts ----

"$HOLT" format a.holt --block-size 4K >/dev/null
# jemalloc's thread comes when jemalloc wants it, and the one that populates memory goes.
things()
{
    printf '%d descriptors, %d threads' "$(ls /proc/$DAEMON/fd | wc -l)" \
        "$(cat /proc/$DAEMON/task/*/comm | grep -cv -e jemalloc -e populate)"
}
declare -A first
different=none
refused=0
mkfifo never
for ((i = 0; i < RESTARTS; i++)); do
    listener=native
    [ $((i / 2 % 2)) = 0 ] || listener=nng
    # As little memory as there can be: clearing it is most of a start.
    daemon_start a.holt --cache 4M --workers 0 --readers 1 --reads 1 --requests 4 --listener $listener
    "$HOLT" stat --socket a.holt.sock >/dev/null || refused=$((refused + 1))
    # A connection that was just closed may still be there, and the thread that populates memory.
    [ -n "${first[$listener]:-}" ] || read -r -t 1 <>never || true
    for ((tries = 0; tries < 1000; tries++)); do
        now=$(things)
        first[$listener]=${first[$listener]:-$now}
        [ "$now" != "${first[$listener]}" ] || break
        read -r -t 0.01 <>never || true
    done
    [ "$now" = "${first[$listener]}" ] || different="$different, $now ($listener)"
    if [ $((i % 2)) = 0 ]; then daemon_stop KILL; else daemon_stop TERM; fi
done
same "of $RESTARTS restarts all serve" $refused 0
same "and have what the first had: ${first[native]} (native), ${first[nng]} (nng)" "$different" none
exit $FAILED
