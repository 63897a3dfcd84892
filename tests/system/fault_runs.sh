#!/usr/bin/env bash
# Goal: whatever becomes of the disk or of the process in the middle of a system call, the daemon keeps
# its promises to its clients: what was acknowledged is there, wholly, once, and no read ever saw
# anything that a good store could not have shown. A failed write or sync of the journal or the
# superblock ends the daemon with its own exit code and no reply after it.
#
# Each run starts a daemon on the file as the run before left it, under fault_run: it is killed before,
# behind or in the middle of a counted call, or the call fails; in most runs what was not synced is
# then lost, kept or torn, as when the power goes. Clients write and read meanwhile; all that they see
# in all runs is one history, and history_client checks it whole. The fault often meets recovery.
#
# Before that, a whole life is gone through call by call: a daemon that starts, takes a write and stops is
# killed before the first call that changes anything outside of it, then before the second, and so on. Between two such
# calls nothing changes, so these are all the points at which such a life can end. That fault_run counts all calls of
# that kind is asked of the kernel: it stops the daemon at every call that is not known to be harmless.
#
# RUNS=1000 for a long campaign, SEED=n for the same choices again (moments are never quite the same).
# A failure keeps the directory with the data file, the history and the logs.
. "$(dirname "$0")/common.sh"

RUNS=${RUNS:-80}
SEED=${SEED:-$(date +%s)}
LOAD_MS=${LOAD_MS:-300}
TOOLS=${HOLT_TOOLS:-$(dirname "$HOLT")}
FILE=a.holt
LAUNCHER=
LISTENER= # either
RANDOM=$((SEED % 32768))
printf '# SEED=%d RUNS=%d\n' "$SEED" "$RUNS"

# POINT ACTION, the highest count at which it strikes (of a moment: milliseconds of load), what then happens to unsynced writes (cut:
# random; lose: all is lost; -: nothing), and the exit code.
KINDS=(
    'journal-write kill-before 40 cut 137' 'journal-write kill-after 40 lose 137'
    'journal-write kill-torn 40 cut 137'   'sync kill-before 40 lose 137'
    'sync kill-after 40 lose 137'          'reply kill-before 100 lose 137'
    'reply kill-after 100 lose 137'        'grid-write kill-before 15 cut 137'
    'grid-write kill-torn 15 cut 137'      'superblock-write kill-before 4 cut 137'
    'superblock-write kill-after 4 lose 137' 'superblock-write kill-torn 4 cut 137'
    'change kill-before 200 - 137'         'change kill-after 400 cut 137'
    'outside kill-before 12 - 137'         'outside kill-after 12 cut 137'
    'sync eio 40 lose 74'                  'sync eio 40 cut 74'
    'journal-write eio 40 cut 74'          'journal-write torn-eio 40 cut 74'
    'journal-write enospc 40 lose 73'      'superblock-write eio 4 cut 74'
    'superblock-write torn-eio 4 cut 74'   'grid-write eio 15 cut any'
    'grid-write enospc 15 cut any'         'journal-read eio 60 - any'
    'grid-read eio 30 cut any'             'superblock-read eio 5 - any'
    'moment kill 300 cut 137'              'moment kill 300 lose 137'
    'storm' 'storm cut'
)

# Whatever is wrong ends the test: what follows would only hide where it began.
fail()
{
    not_ok "$@"
    printf '# SEED=%d; all is kept in %s\n' "$SEED" "$WORK"
    tail -n 20 daemon.log client.log 2>/dev/null | sed 's/^/    /'
    trap - EXIT
    [ -z "$LAUNCHER" ] || kill -KILL "$LAUNCHER"
    exit 1
}
trap '[ -z "$LAUNCHER" ] || kill -KILL "$LAUNCHER" 2>/dev/null; cleanup' EXIT

# launch [fault_run's options]: a daemon, traced; waits until it answers or is gone.
launch()
{
    rm -f pid
    local listeners=(native nng)
    "$TOOLS/fault_run" --file $FILE --pid pid --report report "$@" -- \
        "$HOLT" start $FILE --cache 8M --workers $((RANDOM % 3)) \
        --listener "${LISTENER:-${listeners[RANDOM % 2]}}" 2>>daemon.log &
    LAUNCHER=$!
    until timeout 3 "$HOLT" ping --socket $FILE.sock >/dev/null 2>&1; do
        kill -0 $LAUNCHER 2>/dev/null || return 1
        read -r -t 0.02 <>"$WORK/never" || true
    done
}

# Stops the daemon if it still runs. $CODE is its exit code.
landed()
{
    [ ! -s pid ] || kill -TERM "$(cat pid)" 2>/dev/null
    CODE=0
    wait "$LAUNCHER" || CODE=$?
    LAUNCHER=
    [ $CODE != 99 ] || fail "$1: the faults themselves"
}

# kill_in MILLISECONDS PID, whatever it is doing then.
kill_in()
{
    read -r -t "$(printf '0.%03d' "$1")" <>never || true
    kill -KILL "$2" 2>/dev/null
}

reported() { awk -v name="$1" '$1 == name {print $2}' report; }

mkfifo never
for tool in fault_run history_client; do
    [ -x "$TOOLS/$tool" ] || { not_ok "$tool is built" "no $TOOLS/$tool"; exit 1; }
done
if ! "$TOOLS/fault_run" -- true 2>fault_run.log; then
    ok "fault_runs # skip: no program can be traced here: $(cat fault_run.log)"
    exit 0
fi
"$HOLT" format $FILE --block-size 4K >/dev/null
launch || fail "the first start"
landed "the first start"
if [ $CODE = 0 ] && [ "$(reported any)" -gt 0 ]; then
    ok "calls can be counted here"
else
    fail "calls can be counted here" "exit code $CODE" "$(cat report)"
fi
launch || fail "the second start"
"$HOLT" create cells 'key u32, grp u32, value u64, filler bytes<80>, index by_group (grp)' \
    --socket $FILE.sock >/dev/null || fail "a groove"
"$HOLT" create lives 'number u32' --socket $FILE.sock >/dev/null || fail "another groove"
landed "a groove"

# No call that changes anything but those that are counted, whoever listens.
load=$((RUNS + 1)) # Loads have numbers: 1..RUNS are those of the runs.
for LISTENER in nng native; do
    load=$((load + 1))
    launch --audit yes || fail "a start that is audited"
    seen=$("$TOOLS/history_client" load $FILE.sock history $load 500 2>>client.log) ||
        fail "an audited load" "$seen"
    landed "an audit"
    [ "$(reported outside)" -gt 0 ] && [ "$(reported unlisted)" = 0 ] ||
        fail "all calls of the daemon are known ($LISTENER)" "$(cat report)"
    ok "all calls of the daemon are known ($LISTENER): $(reported change) of $(reported any) change anything"
done

# Every call of a life. What an import was told of is there; all of it is, once, when each is asked for again.
lives=0
acknowledged=0
LISTENER=native
while :; do
    lives=$((lives + 1))
    cut=()
    [ $((lives % 3)) = 0 ] || cut=(--power-cut $((RANDOM + 1)))
    printf 'number\n%d\n' $lives >one.csv
    launch --fault change:$lives:kill-before "${cut[@]}" &&
        timeout 10 "$HOLT" import lives one.csv --name "life $lives" --socket $FILE.sock \
            >/dev/null 2>>client.log && acknowledged=$((acknowledged + 1))
    landed "life $lives"
    [ "$(reported fired)" -gt 0 ] || break
    [ $CODE = 137 ] || fail "life $lives is killed" "exit code $CODE"
done
LISTENER=
same "the life that nobody ends ends well" $CODE 0
launch || fail "a start behind all these lives"
there=$("$HOLT" count lives --socket "$FILE.sock")
[ "$there" -ge "$acknowledged" ] && [ "$there" -le "$lives" ] ||
    fail "what was told of in $lives lives is there" "$there of $acknowledged"
for ((life = 1; life <= lives; life++)); do
    printf 'number\n%d\n' $life >one.csv
    "$HOLT" import lives one.csv --name "life $life" --socket $FILE.sock >/dev/null || fail "import again"
done
same "killed before each of $((lives - 1)) calls: each write is there once" \
    "$("$HOLT" count lives --socket $FILE.sock)" $lives
landed "the last of these lives"
[ $lives -gt 20 ] || fail "a life has more calls than that" $lives

declare -A fired_runs
fired_total=0
for ((run = 1; run <= RUNS; run++)); do
    kind=${KINDS[(run - 1) % ${#KINDS[@]}]}
    options=()
    expected=0
    read -r point action count_max cut code <<<"$kind"
    if [ "$point" = storm ]; then
        options+=(--storm $((RANDOM + 1)))
        cut=$action
    elif [ "$point" = moment ]; then
        moment=$((RANDOM % count_max))
        expected=$code
    else
        options+=(--fault "$point:$((RANDOM % count_max + 1))$([[ $point == *-read ]] && echo +):$action")
        expected=$code
    fi
    case $cut in
    cut) options+=(--power-cut $((RANDOM + 1))) ;;
    lose) options+=(--power-cut 0) ;;
    esac
    name="run $run: $point $action ${options[*]}"

    # Checkpoints are rarer than all else.
    load_ms=$LOAD_MS
    [[ $point != superblock-write ]] || load_ms=$((LOAD_MS * 8))

    seen="not answering"
    launch "${options[@]}" &&
        {
            [ "$point" != moment ] || kill_in "$moment" "$(cat pid)" &
            seen=$("$TOOLS/history_client" load "$FILE.sock" history "$run" "$load_ms" 2>>client.log) ||
                fail "$name" "$seen"
        }
    landed "$name"
    fired=$(($(reported fired) + $(reported interrupted)))
    [ $CODE != 137 ] || [ "$point" != moment ] || fired=1
    if [ "$fired" = 0 ]; then
        expected=0
    else
        fired_total=$((fired_total + 1))
        fired_runs[$point-$action]=1
    fi
    # A read that fails, or a block that is not written, is met or contained; but there are no other
    # ways to end than these.
    case $expected:$CODE in
    any:0 | any:73 | any:74 | any:76) ;;
    *) [ "$CODE" = "$expected" ] || fail "$name" "exit code $CODE, not $expected; $seen" ;;
    esac
    verdict=$("$TOOLS/history_client" check history) || fail "$name" "$verdict"
    if [ $((run % 15)) = 0 ]; then
        "$HOLT" verify $FILE >verify.log 2>&1 || fail "$name: the file" "$(cat verify.log)"
    fi
    ok "$name: struck $fired times, exit $CODE; $seen; $(reported lost) of $(($(reported lost) +
        $(reported kept))) unsynced writes lost"
done

launch || fail "the last start"
"$TOOLS/history_client" final $FILE.sock history 2>>client.log || fail "everything can be read"
"$HOLT" stat --json --socket $FILE.sock >stat.json
landed "the last start"
same "a clean stop" $CODE 0
verdict=$("$TOOLS/history_client" check history) || fail "the history of all runs" "$verdict"
ok "the history of all runs: $verdict"
expect "verify" 0 "no problems" "$HOLT" verify $FILE
same "there were checkpoints" \
    "$(python3 -c 'import json; print(json.load(open("stat.json"))["checkpoint"]["op"] > 0)')" True
if [ $((fired_total * 2)) -ge "$RUNS" ]; then
    ok "most faults struck"
else
    fail "most faults struck" "$fired_total of $RUNS"
fi

# Would all this see a store that breaks its word? A disk that says it has synced, and has not, makes
# one; what was acknowledged is lost with the power.
launch --fault sync:1+:lie --power-cut 0 || fail "a start on a disk that lies"
seen=$("$TOOLS/history_client" load $FILE.sock history $((RUNS + 1)) 1000 2>>client.log)
kill -KILL "$(cat pid)"
landed "a disk that lies"
told=0
if launch; then
    "$TOOLS/history_client" final $FILE.sock history 2>>client.log || told=1
else
    told=1
fi
landed "behind a disk that lies"
verdict=$("$TOOLS/history_client" check history) || told=1
same "a disk that lies is found out ($seen; $verdict)" $told 1
printf '# %d runs, %d faults struck, of %d kinds\n' "$RUNS" $fired_total ${#fired_runs[@]}
exit $FAILED
