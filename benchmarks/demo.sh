#!/usr/bin/env bash
# A tour of Holt on 171,075 real cities: format, start, import, query; then SIGKILL in the middle of
# an import, and proof that what was acknowledged is there, whole. Every answer stands beside the one
# computed from the CSV file, and the tour fails if two differ. Run by `./dev demo`.
set -euo pipefail

HOLT=${HOLT:?run ./dev demo, or set HOLT to the path of the holt program}
REPOSITORY=$(cd "$(dirname "$0")/.." && pwd)
CSV=$REPOSITORY/data/cities.csv
WORK=$(mktemp -d "${TMPDIR:-/tmp}/holt-demo.XXXXXX")
DAEMON=
FAILED=0
BATCH=1000

cleanup()
{
    if [ -n "$DAEMON" ]; then
        kill -KILL "$DAEMON" 2>/dev/null || true
        wait "$DAEMON" 2>/dev/null || true
    fi
    rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -t 1 ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' green='' red='' plain=''
fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show()
{
    local word line="  \$ holt"
    for word in "$@"; do
        case $word in
        *[\ \']*) line+=" '$word'" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '%s\n' "$line"
    "$HOLT" "$@" | sed 's/^/    /'
}
# compare WHAT HOLT FILE
compare()
{
    if [ "$2" = "$3" ]; then
        printf '  %s%-46s %12s = %-12s%s\n' "$green" "$1" "$2" "$3" "$plain"
    else
        printf '  %s%-46s %12s, but it should be %s%s\n' "$red" "$1" "$2" "$3" "$plain"
        FAILED=1
    fi
}
# check WHAT CONDITION...
check()
{
    local what=$1
    shift
    if "$@"; then
        printf '  %s%-46s yes%s\n' "$green" "$what" "$plain"
    else
        printf '  %s%-46s NO%s\n' "$red" "$what" "$plain"
        FAILED=1
    fi
}
start()
{
    "$HOLT" start cities.holt 2>>daemon.log &
    DAEMON=$!
    "$HOLT" ping --wait 120 --socket cities.holt.sock >/dev/null || {
        cat daemon.log >&2
        exit 1
    }
}
number() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <"$2"; }
# The file's own answer: how many rows have these values (column=value ...).
in_file()
{
    python3 - "$CSV" "$@" <<'PYTHON'
import csv, sys
wanted = [pair.split("=", 1) for pair in sys.argv[2:]]
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    print(sum(all(row[name] == value for name, value in wanted)
              for row in csv.DictReader(file)))
PYTHON
}

cd "$WORK"
export HOLT_SOCKET=$WORK/cities.holt.sock
began=$SECONDS
ROWS=$(in_file)

title "1. A data file, a daemon, a kind of object"
show format cities.holt
printf '  $ holt start cities.holt &\n'
start
show create cities 'name text<100>, lat f64, lng f64, country text<2>, admin1 text<8>,
    admin2 text<32>, index country, index by_admin (country, admin1), index name'

title "2. $ROWS rows of $(basename "$CSV"), through the socket, each durable when acknowledged"
show import cities "$CSV"

title "3. Questions, answered by an index (left) and by reading the whole file (right)"
show query cities --where 'country = "AD" and admin1 = "03"' --limit 5
compare "all cities" "$("$HOLT" count cities)" "$ROWS"
for country in AD IS JP US; do
    compare "country = $country" "$("$HOLT" count cities --where "country = '$country'")" \
        "$(in_file "country=$country")"
done
compare "country = DE and admin1 = 02" \
    "$("$HOLT" count cities --where 'country = DE and admin1 = 02')" \
    "$(in_file country=DE admin1=02)"
compare "name = San José" "$("$HOLT" count cities --where 'name = "San José"')" \
    "$(in_file "name=San José")"
"$HOLT" query cities --where 'country = IS' --limit 1000 --json |
    python3 -c 'import json, sys
for line in sys.stdin: print(json.loads(line)["name"])' >names.holt
python3 - "$CSV" >names.file <<'PYTHON'
import csv, sys
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
        if row["country"] == "IS":
            print(row["name"])
PYTHON
check "the names of Iceland's cities are the same" cmp -s names.holt names.file

title "4. SIGKILL in the middle of a second import"
"$HOLT" import cities "$CSV" --name again --batch $BATCH --json >import.json 2>import.log &
import=$!
while [ "$("$HOLT" count cities)" -lt $((ROWS + ROWS / 3)) ]; do :; done
kill -KILL "$DAEMON"
wait "$DAEMON" 2>/dev/null || true
DAEMON=
wait "$import" && code=0 || code=$?
sed 's/^/    /' import.log
acknowledged=$(number acknowledged import.json)
printf '  the importer ended with exit code %d; %d rows were acknowledged to it\n' \
    "$code" "$acknowledged"
check "the import was really cut off" test "$code" -ne 0 -a "$acknowledged" -lt "$ROWS"
start
recovered=$(($("$HOLT" count cities) - ROWS))
printf '  the daemon is back: %s\n' "$(grep -a event=forest.recovered daemon.log | tail -n 1 |
    grep -o 'entries=.*')"
printf '  of the second import it has %d rows\n' "$recovered"
check "every acknowledged row is there" test "$recovered" -ge "$acknowledged"
check "no batch of $BATCH rows is there by half" test $((recovered % BATCH)) -eq 0
sum=0
for country in $(python3 -c 'import csv, sys
print(*sorted({row["country"] for row in csv.DictReader(open(sys.argv[1], encoding="utf-8"))}))' \
    "$CSV"); do
    sum=$((sum + $("$HOLT" count cities --where "country = '$country'")))
done
compare "objects, as the country index counts them" "$sum" $((ROWS + recovered))

title "5. The same import again: it goes on where it was cut off"
show import cities "$CSV" --name again --batch $BATCH
compare "all cities" "$("$HOLT" count cities)" $((2 * ROWS))
compare "country = JP" "$("$HOLT" count cities --where 'country = JP')" \
    $((2 * $(in_file country=JP)))

title "6. Stop, and check every byte"
kill -TERM "$DAEMON"
wait "$DAEMON" && code=0 || code=$?
DAEMON=
compare "exit code of the daemon" "$code" 0
show verify cities.holt

title "Done in $((SECONDS - began)) s."
if [ "$FAILED" != 0 ]; then
    printf '%sSomething above is wrong.%s\n' "$red" "$plain"
    exit 1
fi
printf 'Everything above is as it should be.\n'
