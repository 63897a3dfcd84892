#!/usr/bin/env bash
# Goal: a full disk is told, not suffered. Format leaves nothing behind; a daemon refuses writes with
# a clear result while it goes on reading, is killed and comes back; and as soon as there is space
# again, on the disk or because a groove was dropped, it writes again. Nothing acknowledged is lost,
# nothing refused is there.
#
# The disk is a small ext4 in a file, which needs the rights to mount it.
. "$(dirname "$0")/common.sh"

DISK=$WORK/disk
CSV=$REPOSITORY/data/cities.csv
ROWS=$(($(python3 -c 'import csv, sys; print(sum(1 for _ in csv.reader(open(sys.argv[1]))))' \
    "$CSV") - 1))

mkdir disk
truncate -s 400M disk.img
if ! mkfs.ext4 -q -m 0 disk.img >/dev/null 2>&1 || ! mount -o loop disk.img disk 2>/dev/null; then
    ok "disk_full # skip: no disk can be mounted here"
    exit 0
fi
trap '[ -z "$DAEMON" ] || kill -KILL "$DAEMON" 2>/dev/null
      wait; cd /; umount "$DISK"; DAEMON=; cleanup' EXIT

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
count() { "$HOLT" count cities; }
is_full() { "$HOLT" stat --json | field full; }

# The whole CSV under a name: $CODE is the exit code, $INSERTED what was acknowledged.
import()
{
    CODE=0
    "$HOLT" import cities "$CSV" --name "$1" --json >import.json 2>import.log || CODE=$?
    INSERTED=$(field inserted <import.json)
}

start() { daemon_start disk/a.holt --cache 8M; }

# ---- Format ----

fallocate -l 340M disk/filler
expect "format says that there is no space" 73 "space" "$HOLT" format disk/a.holt --block-size 8K
same "it leaves no file" "$(ls disk | tr '\n' ' ')" "filler lost+found "
rm disk/filler

# ---- A daemon runs into it ----

"$HOLT" format disk/a.holt --block-size 8K >/dev/null
fallocate -l 150M disk/filler
start
export HOLT_SOCKET=$WORK/disk/a.holt.sock
"$HOLT" create cities 'name text<100>, lat f64, lng f64, country text<2>, admin1 text<8>,
    admin2 text<32>, index country, index by_admin (country, admin1), index name' >/dev/null

acknowledged=0
CODE=0
for ((round = 0; CODE == 0 && round < 10;)); do
    round=$((round + 1))
    import "round $round"
    acknowledged=$((acknowledged + INSERTED))
done
same "an import meets the full disk" "$CODE" 73
expect "its message says so" 0 "full" cat import.log
same "stat says so" "$(is_full)" True
full_count=$(count)
if [ "$full_count" -ge "$acknowledged" ]; then
    ok "all that was acknowledged is there"
else
    not_ok "all that was acknowledged is there" "$full_count of $acknowledged"
fi
country_count=$("$HOLT" count cities --where 'country = LI')
expect "queries go on" 0 "Vaduz" "$HOLT" query cities --where 'country = LI' --limit 1000
import "while full"
same "a further import is refused" "$CODE" 73
same "nothing of it is there" "$INSERTED $(count)" "0 $full_count"
expect "so is a new groove" 73 "full" "$HOLT" create other 'a u8'

# ---- Killed while full ----

daemon_stop KILL
expect "verify of the full file" 0 "no problems" "$HOLT" verify disk/a.holt
start
same "a restart on the full disk has all" "$(count)" "$full_count"
same "its index, too" "$("$HOLT" count cities --where 'country = LI')" "$country_count"
import "while full"
same "and refuses to write" "$CODE" 73
same "the count stays" "$(count)" "$full_count"

# ---- Space again ----

rm disk/filler
# The first requests may still be told FULL: they are what makes the daemon look again.
for ((try = 0; try < 200; try++)); do
    import "round $round"
    [ "$CODE" = 73 ] || break
done
same "the import is completed when there is space" "$CODE" 0
same "to the exact count" "$(count)" $((round * ROWS))
same "stat says that it is over" "$(is_full)" False
daemon_stop KILL
start
same "a kill loses nothing of it" "$(count)" $((round * ROWS))

# ---- Full again, and emptied ----

fallocate -l 150M disk/filler 2>/dev/null || true # Or as much as there is.
for ((CODE = 0, try = 0; CODE == 0 && try < 10; try++)); do
    import "again $try"
done
same "the disk is full again" "$CODE" 73
expect "a groove can be dropped" 0 "" "$HOLT" drop cities
daemon_stop KILL
start
create_cities() # Refused until merges have given enough back.
{
    for ((try = 0; try < 200; try++)); do
        "$HOLT" create cities 'name text<100>, lat f64, lng f64, country text<2>,
            admin1 text<8>, admin2 text<32>, index country, index by_admin (country, admin1),
            index name' >/dev/null 2>&1 && return 0
    done
    return 1
}
expect "its name is free" 0 "" create_cities
for ((CODE = 73, try = 0; CODE == 73 && try < 200; try++)); do
    import "after the drop"
done
same "what it held is written again, on the same disk" "$CODE $(count)" "0 $ROWS"
daemon_stop TERM && code=0 || code=$?
same "a clean stop" "$code" 0
expect "verify" 0 "no problems" "$HOLT" verify disk/a.holt
exit $FAILED
