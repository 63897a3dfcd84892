#!/usr/bin/env bash
# Goal: what was acknowledged survives kill -9 at any moment, whole; an import that was interrupted
# is completed by running it again, to the exact count; answers are those of awk on the same file;
# sixteen clients that count together by compare and set count exactly.
. "$(dirname "$0")/common.sh"
TOOLS=${HOLT_TOOLS:-$(dirname "$HOLT")}

CSV=$REPOSITORY/data/cities.csv
ROWS=$(($(python3 -c 'import csv, sys; print(sum(1 for _ in csv.reader(open(sys.argv[1]))))' \
    "$CSV") - 1))
BATCH=500
# The daemons take turns with them, or all have HOLT_LISTENER's.
read -ra LISTENERS <<<"${HOLT_LISTENER:-native nng}"

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
# Counts per value of a column of the CSV, as "VALUE COUNT" lines.
count_csv()
{
    python3 -c '
import collections, csv, sys
rows = csv.DictReader(open(sys.argv[1], encoding="utf-8"))
for value, count in sorted(collections.Counter(r[sys.argv[2]] for r in rows).items()):
    print(value, count)' "$CSV" "$1"
}

# Small blocks have small bars: three imports then take the store through checkpoints and compaction.
"$HOLT" format a.holt --block-size 8K >/dev/null
daemon_start a.holt --listener "${LISTENERS[0]}"
export HOLT_SOCKET=$WORK/a.holt.sock
"$HOLT" create cities 'name text<100>, lat f64, lng f64, country text<2>, admin1 text<8>,
    admin2 text<32>, index country, index by_admin (country, admin1), index name' >/dev/null

same "all rows are imported" \
    "$("$HOLT" import cities "$CSV" --json 2>/dev/null | field inserted)" "$ROWS"
same "the count is the file's" "$("$HOLT" count cities)" "$ROWS"
same "count by country is awk's" "$("$HOLT" count cities --where 'country = AD')" \
    "$(awk -F, '$(NF-2) == "AD"' "$CSV" | wc -l)"
same "count by two fields is awk's" \
    "$("$HOLT" count cities --where 'country = AD and admin1 = 03')" \
    "$(awk -F, '$(NF-2) == "AD" && $(NF-1) == "03"' "$CSV" | wc -l)"
same "count by a long name is exact" "$("$HOLT" count cities --where 'name = "San José"')" \
    "$(count_csv name | awk '{n = $NF; $NF = ""} $0 == "San José " {print n}')"
same "a query finds the same names in the same order" \
    "$("$HOLT" query cities --where 'country = LI' --limit 1000 --json |
        python3 -c 'import json, sys
for line in sys.stdin: print(json.loads(line)["name"])')" \
    "$(python3 -c 'import csv, sys
for row in csv.DictReader(open(sys.argv[1], encoding="utf-8")):
    if row["country"] == "LI": print(row["name"])' "$CSV")"
same "the same import again doubles nothing" \
    "$("$HOLT" import cities "$CSV" --json 2>/dev/null | field already_there)" "$ROWS"
same "the count is as before" "$("$HOLT" count cities)" "$ROWS"

# counter_client.c is their clients.
"$HOLT" create counters 'value u64' >/dev/null
"$HOLT" create tickets 'value u64, index value' >/dev/null
INCREMENTS=40

base=$ROWS
for round in 1 2 3; do
    "$TOOLS/counter_client" "$HOLT_SOCKET" counters tickets $round $INCREMENTS >counter 2>counter.log &
    counter=$!
    "$HOLT" import cities "$CSV" --name "round $round" --batch $BATCH --json \
        >import.json 2>import.log &
    import=$!
    while [ "$("$HOLT" count cities)" -lt $((base + 15000 * round)) ]; do :; done
    daemon_stop KILL
    wait "$import" && code=0 || code=$?
    case $code in
    69 | 75) ok "round $round: the import says that it was cut off" ;;
    *) not_ok "round $round: the import says that it was cut off" "exit code $code" \
        "$(cat import.log)" ;;
    esac
    acknowledged=$(field acknowledged <import.json)

    daemon_start a.holt --listener "${LISTENERS[round % ${#LISTENERS[@]}]}"
    recovered=$(($("$HOLT" count cities) - base))
    if [ "$recovered" -ge "$acknowledged" ]; then
        ok "round $round: what was acknowledged is there"
    else
        not_ok "round $round: what was acknowledged is there" "$recovered of $acknowledged"
    fi
    if [ $((recovered % BATCH)) = 0 ] || [ "$recovered" = "$ROWS" ]; then
        ok "round $round: no batch is there by half"
    else
        not_ok "round $round: no batch is there by half" "$recovered rows, batches of $BATCH"
    fi
    same "round $round: the import is completed" \
        "$("$HOLT" import cities "$CSV" --name "round $round" --json 2>/dev/null |
            field already_there)" "$recovered"
    base=$((base + ROWS))
    same "round $round: to the exact count" "$("$HOLT" count cities)" "$base"
    wait "$counter" || not_ok "round $round: the counters count" "$(cat counter.log)"
    sum=$((round * 16 * INCREMENTS))
    same "round $round: sixteen clients count exactly" "$(cat counter)" "$sum $sum 0"
done

sum=0
wrong=0
while read -r country count; do
    got=$("$HOLT" count cities --where "country = \"$country\"")
    sum=$((sum + got))
    [ "$got" = $((count * 4)) ] || wrong=$((wrong + 1))
done < <(count_csv country)
same "the index knows every object once" "$sum" "$base"
same "each country has four times its rows" "$wrong" 0

"$HOLT" stat --json >stat.json
check_stat() { python3 -c 'import json, sys
print(eval(sys.argv[1], {"stat": json.load(open("stat.json"))}))' "$1"; }
same "there were checkpoints" "$(check_stat 'stat["checkpoint"]["op"] > 0')" True
same "no beat took longer than planned" "$(check_stat 'stat["compaction"]["beat_overrun_total"]')" 0
same "nothing was refused" "$(check_stat 'stat["requests"]["refused"]')" 0

daemon_stop TERM && code=0 || code=$?
same "a clean stop" "$code" 0
expect "verify" 0 "no problems" "$HOLT" verify a.holt
# last_kind: of the journal's newest entry: 1 is a batch, 2 a seal (docs/data-file.md).
last_kind()
{
    python3 - a.holt <<'TEXT'
import struct, sys
newest = (0, 0)
with open(sys.argv[1], "rb") as file:
    file.seek(64 << 10)
    for at in range(0, 128 << 20, 4096):
        sector = file.read(4096)
        if len(sector) < 4096:
            break
        sequence, offset = struct.unpack_from("<QQ", sector, 48)
        if sequence > 0 and offset == at and not any(sector[94:128]):
            newest = max(newest, (sequence, sector[92]))
print(newest[1])
TEXT
}

# A stop that comes before the silence in which the daemon would have sealed by itself.
head -n 2 "$CSV" >one.csv
kinds=
for round in 1 2 3 4 5; do
    daemon_start a.holt
    "$HOLT" import cities one.csv --name "seal $round" >/dev/null 2>&1
    daemon_stop TERM
    kinds+=$(last_kind)
    base=$((base + 1))
done
same "a stop right behind a write seals the journal" "$kinds" 22222

daemon_start a.holt
same "all is there after it" "$("$HOLT" count cities)" "$base"
daemon_stop KILL
expect "verify after a kill" 0 "no problems" "$HOLT" verify a.holt
exit $FAILED
