#!/usr/bin/env bash
# Goal: whatever a person gets wrong on the command line is refused with the right exit code and a
# sentence that names it; nothing that was there before is harmed.
. "$(dirname "$0")/common.sh"

# ---- Without a daemon ----

expect "no command prints help" 64 "usage: holt COMMAND" "$HOLT"
expect "help lists the commands" 0 "import" "$HOLT" help
expect "help explains a command" 0 "sparse index" "$HOLT" help create
expect "an unknown command is named" 64 "did you mean 'import'" "$HOLT" imprt
expect "version" 0 "protocol 1" "$HOLT" version
expect "an unknown flag is named" 64 "did you mean --limit" "$HOLT" query g --limt 3
expect "one dash is not a flag" 64 "two dashes" "$HOLT" query g -l 3
expect "a flag without its value" 64 "--limit needs a value" "$HOLT" query g --limit
expect "a flag given twice" 64 "given twice" "$HOLT" stat --json --json
expect "a missing argument is named" 64 "GROOVE is missing" "$HOLT" count
expect "one argument too many" 64 "too many" "$HOLT" stat now
expect "no socket named" 64 "HOLT_SOCKET" "$HOLT" stat
expect "no such socket" 69 "holt start" "$HOLT" stat --socket "$WORK/none.sock"
for command in format start create drop import get query count stat verify ping version help; do
    expect "$command has help" 0 "usage: holt $command" "$HOLT" "$command" --help
done

expect "format refuses a bad block size" 64 "power of two" "$HOLT" format x.holt --block-size 5000
expect "format refuses a small journal" 64 "4K, from " "$HOLT" format x.holt --journal-size 4K
expect "format refuses a large journal" 64 "to 256G" "$HOLT" format x.holt --journal-size 10T
expect "format refuses a missing directory" 66 "its directory" "$HOLT" format none/x.holt
expect "format refuses an empty path" 64 "FILE is empty" "$HOLT" format ""
expect "format beyond the limit of file sizes" 73 "removed again" \
    bash -c 'ulimit -f 1000; exec "$0" format x.holt' "$HOLT"
same "nothing was left behind" "$(ls)" ""
expect "format makes a file" 0 "is ready" "$HOLT" format a.holt --block-size 16K
before=$(cksum <a.holt)
expect "format overwrites nothing" 73 "there already" "$HOLT" format a.holt
same "the file is as it was" "$(cksum <a.holt)" "$before"

expect "start needs a file" 66 "holt format" "$HOLT" start none.holt
printf 'name,lat\n' >text.csv
expect "start refuses a text" 65 "not a Holt data file" "$HOLT" start text.csv
head -c 100000 /dev/zero >zero.holt
expect "start refuses zeros" 65 "not a Holt data file" "$HOLT" start zero.holt
expect "verify refuses zeros" 65 "not a Holt data file" "$HOLT" verify zero.holt
expect "start refuses a directory" 65 "regular file" "$HOLT" start .
head -c 8192 a.holt >short.holt
expect "start refuses a file cut to two sectors" 65 "" "$HOLT" start short.holt
head -c 1000000 a.holt >cut.holt
expect "start refuses a file cut in its journal" 76 "is cut off" "$HOLT" start cut.holt
expect "verify refuses a file cut in its journal" 76 "is cut off" "$HOLT" verify cut.holt
expect "start refuses a bad number" 64 "--workers" "$HOLT" start a.holt --workers many
expect "start refuses a bad variable" 64 "HOLT_CACHE" env HOLT_CACHE=much "$HOLT" start a.holt
printf 'cache = 64M\nreeders = 2\n' >bad.conf
expect "start names the line of the configuration" 64 "line 2" \
    "$HOLT" start a.holt --config bad.conf
expect "start refuses an empty configuration path" 64 "HOLT_CONFIG" \
    env HOLT_CONFIG= "$HOLT" start a.holt
expect "start wants its configuration" 66 "none.conf" "$HOLT" start a.holt --config none.conf
printf 'cache = 64M\nreaders = 3\n' >good.conf
expect "the plan says where values come from" 0 "file" \
    "$HOLT" start a.holt --config good.conf --plan
plan=$(HOLT_READERS=5 "$HOLT" start a.holt --config good.conf --cache 8M --plan --json)
same "flags win over variables over the file" \
    "$(python3 -c 'import json, sys
c = json.load(sys.stdin)["configuration"]
print(c["cache"]["value"], c["readers"]["value"], c["readers"]["source"])' <<<"$plan")" \
    "8M 5 environment"
expect "a socket path too long" 64 "107" "$HOLT" start a.holt \
    --socket "$WORK/$(printf 'x%.0s' {1..120})"

echo precious >precious
expect "a file at the socket path is left alone" 73 "precious" \
    "$HOLT" start a.holt --socket precious
same "it is as it was" "$(cat precious)" "precious"
ln -s precious link
expect "a symlink at the socket path is left alone" 73 "link" "$HOLT" start a.holt --socket link
mkdir directory
expect "a directory at the socket path is left alone" 73 "directory" \
    "$HOLT" start a.holt --socket directory
expect "a socket in no directory" 66 "" "$HOLT" start a.holt --socket none/a.sock
expect "the data file as socket" 64 "same path" "$HOLT" start a.holt --socket a.holt

# ---- With one ----

daemon_start a.holt
export HOLT_SOCKET=$WORK/a.holt.sock
same "the socket is its owner's alone" "$(stat -c %a a.holt.sock)" "600"
expect "a second daemon on the same file" 75 "in use" "$HOLT" start a.holt --socket b.sock
same "it did not touch its socket" "$([ -e b.sock ] && echo there)" ""
expect "verify needs the file for itself" 75 "in use" "$HOLT" verify a.holt
"$HOLT" format b.holt --block-size 16K >/dev/null
expect "a second daemon on the same socket" 75 "a.holt.sock" \
    "$HOLT" start b.holt --socket a.holt.sock
expect "the first one lives" 0 "answers" "$HOLT" ping
expect "what is no socket is told" 69 "this is not a socket" "$HOLT" ping --socket a.holt
expect "a socket from the environment is told" 75 "from HOLT_SOCKET" "$HOLT" start b.holt
expect "a closed output is an error, and not the next file" 74 "could not be written" \
    bash -c '"$0" stat >&-' "$HOLT"
expect "ping as JSON" 0 '"version"' "$HOLT" ping --json
expect "stat of an empty store" 0 "no grooves yet" "$HOLT" stat
expect "stat as JSON" 0 "" python3 -c \
    'import json, subprocess, sys; json.loads(subprocess.check_output([sys.argv[1], "stat", "--json"]))' \
    "$HOLT"

expect "an unknown groove" 66 "no groove 'cities'" "$HOLT" count cities
expect "a schema error points at its column" 65 "column 9" "$HOLT" create g 'a u8, b u9'
expect "a schema the engine refuses" 65 "" "$HOLT" create g 'a text<5000>'
expect "an empty schema is a mistake of the shell" 64 "SCHEMA is empty" "$HOLT" create g ""
expect "a bad groove name" 65 "cannot name" "$HOLT" create my-groove 'a u8'
expect "create" 0 "created people" "$HOLT" create people \
    'name text<20>, age u8, weight f64, born timestamp, member bool, index age, index name'
expect "a unique index on what is cut is refused with advice" 65 "make the last field shorter" \
    "$HOLT" create users 'login text<30>, unique index login'
expect "a unique index" 0 "created users" "$HOLT" create users \
    'login text<20>, card u64, unique index login, unique sparse index card'
printf 'login,card\nada,7\nbob,0\nada,8\ncat,0\ndan,7\neve,9\n' >users.csv
output=$("$HOLT" import users users.csv 2>&1) && code=0 || code=$?
same "values that are taken give exit code 65" "$code" 65
for text in "line 4: another object has this value in a unique index" \
    "line 6: another object has this value" "acknowledged 4 rows"; do
    if [[ $output == *"$text"* ]]; then ok "import says: $text"; else
        not_ok "import says: $text" "$output"
    fi
done
sed -i 's/^ada,8/amy,8/; s/^dan,7/dan,10/' users.csv
expect "the lines are mended and the import completed" 0 "" "$HOLT" import users users.csv
same "each value has one owner" \
    "$("$HOLT" count users) $("$HOLT" count users --where 'login = "ada"')" "6 1"
expect "a query by a unique index" 0 "amy" "$HOLT" query users --where 'card = 8'
expect "create twice" 73 "exists" "$HOLT" create people 'a u8'
expect "stat names the groove" 0 "people" "$HOLT" stat
expect "the unknown groove is told which there are" 66 "people" "$HOLT" count peple

cat >people.csv <<'CSV'
name,age,weight,born,member
Ada,36,55.5,1815-12-10T00:00:00Z,true
Bob,40,80,1970-01-02,false
Cat,300,1,1970-01-02,true
"Dan, D.",41,70.25,1970-01-03T04:05:06.5Z,1
Eve,42
Fay,forty,1,1970-01-01,0
Gil,43,1e2,86400000000000,0
CSV
output=$("$HOLT" import people people.csv 2>&1) && code=0 || code=$?
same "bad rows give exit code 65" "$code" 65
for text in "line 2: column born" "line 4: column age: '300'" "line 6: 2 cells" \
    "line 7: column age: 'forty'" "acknowledged 3 rows"; do
    if [[ $output == *"$text"* ]]; then ok "import says: $text"; else
        not_ok "import says: $text" "$output"
    fi
done
same "only good rows are in" "$("$HOLT" count people)" 3
expect "strict stops at the first bad row" 65 "line 2" \
    "$HOLT" import people people.csv --strict --name other
expect "a query" 0 "Bob" "$HOLT" query people --where 'age = 40'
expect "a value with a comma" 0 "Dan, D." "$HOLT" query people --where "name = 'Dan, D.'"
expect "a query that finds nothing" 0 "0 objects" "$HOLT" query people --where 'age = 99'
expect "count with a condition" 0 "1" "$HOLT" count people --where 'age = 43'
expect "a query without its condition" 64 "--where" "$HOLT" query people
expect "a condition without an index" 65 "age (age)" "$HOLT" query people --where 'weight = 1'
expect "a condition on the id" 65 "holt get" "$HOLT" query people --where 'id = 1'
expect "a condition on no field" 65 "no field 'agee'" "$HOLT" query people --where 'agee = 1'
expect "a condition that is not one" 65 "column 5" "$HOLT" query people --where 'age 1'
expect "a value of another type" 65 "whole number" "$HOLT" query people --where 'age = old'

printf 'id,name,age,weight,born,member\n7,Zoe,1,1,0,0\n7,Yan,2,1,0,0\n0,Xen,3,1,0,0\n' >ids.csv
output=$("$HOLT" import people ids.csv --id id 2>&1) && code=0 || code=$?
same "an id that is none is a bad row" "$code" 65
if [[ $output == *"line 4: column id: '0' is not an id"* && $output == *"1 already there"* ]]; then
    ok "a doubled id is told, not overwritten"
else
    not_ok "a doubled id is told, not overwritten" "$output"
fi
expect "get by id" 0 "Zoe" "$HOLT" get people 7
expect "get as JSON" 0 '"name":"Zoe","age":1' "$HOLT" get people 7 --json
expect "get of one that is not there" 66 "1 of 2 ids" "$HOLT" get people 7 8
expect "get of no id" 64 "not an id" "$HOLT" get people seven
expect "get of zero" 64 "not an id" "$HOLT" get people 0
expect "import of no file" 66 "none.csv" "$HOLT" import people none.csv
printf '' >empty.csv
expect "import of an empty file" 65 "is empty" "$HOLT" import people empty.csv
printf 'name,shoe\n' >shoe.csv
expect "import of a wrong header" 65 "--partial" "$HOLT" import people shoe.csv
printf 'Name;Age\nAda;1\n' >semicolons.csv
expect "import of no column at all" 65 "no column is a field" \
    "$HOLT" import people semicolons.csv --partial
printf 'name,age\n"Ada,1\n' >open.csv
expect "import of a quote that is never closed" 65 "Repair the file" \
    "$HOLT" import people open.csv --partial
expect "import with a wrong batch" 64 "--batch" "$HOLT" import people people.csv --batch 0

printf 'junk' | timeout 2 python3 -c '
import socket, sys
for junk in (b"", b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 40):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall(junk)
    s.close()
' a.holt.sock
expect "garbage on the socket harms nobody" 0 "answers" "$HOLT" ping

expect "drop" 0 "dropped" "$HOLT" drop people
expect "drop twice" 66 "people" "$HOLT" drop people
expect "its name is free again" 0 "created" "$HOLT" create people 'a u8'
# A descriptor of our own for each standard stream that is closed: none of them is the data file.
"$HOLT" format c.holt --block-size 16K >/dev/null
"$HOLT" start c.holt --socket c.holt.sock --reads 256 --connections 1 0<&- >&- 2>&- &
closed=$!
"$HOLT" ping --wait 120 --socket c.holt.sock >/dev/null
same "the data file is no standard stream" \
    "$(readlink /proc/$closed/fd/{0,1,2} | sort -u)" "/dev/null"
python3 -c '
import socket, sys, time
while True: # The last one may not have been given back yet: closed without a greeting.
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    try:
        s.sendall(b"\0SP\0\0\x30\0\0")
        if len(s.recv(8)) == 8:
            break
    except ConnectionError:
        pass
    time.sleep(0.02)
print("taken", flush=True)
sys.stdin.read()
' c.holt.sock < <(while [ ! -e enough ]; do sleep 0.1; done) >taken &
holder=$!
while [ ! -s taken ]; do sleep 0.1; done
expect "a daemon without a free connection is told" 75 "connections are taken" \
    "$HOLT" ping --socket c.holt.sock
touch enough
wait "$holder"
# As timeout(1) does: the process and its group. The second is no second wish.
kill -TERM "$closed"
kill -INT "$closed" 2>/dev/null || true
wait "$closed" && code=0 || code=$?
same "a signal and its echo stop it cleanly" "$code" 0

daemon_stop TERM && code=0 || code=$?
same "SIGTERM ends cleanly" "$code" 0
same "the socket is gone" "$([ -e a.holt.sock ] && echo there)" ""
expect "no daemon any more" 69 "" "$HOLT" stat
expect "verify after a clean stop" 0 "no problems" "$HOLT" verify a.holt
expect "verify as JSON" 0 '"problems":0' "$HOLT" verify a.holt --json

exit $FAILED
