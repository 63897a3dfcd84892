#!/usr/bin/env bash
# Goal: each user may do what the configuration's `allow` lines say and nothing else, as the kernel
# knows him, on both listeners; wrong lines stop the start and are named; denials are counted and
# logged without filling the log.
. "$(dirname "$0")/common.sh"

TOOLS=${HOLT_TOOLS:-$(dirname "$HOLT")}
"$HOLT" format a.holt --block-size 16K >/dev/null

# ---- Lines ----

# rule NAME TEXT LINE: the start is refused and says TEXT.
rule()
{
    printf 'cache = 8M\n%s\n' "$3" >rules.conf
    expect "$1" 64 "$2" "$HOLT" start a.holt --config rules.conf
    expect "$1: the line" 64 "rules.conf, line 2:" "$HOLT" start a.holt --config rules.conf
}
rule "an unknown user is named" "no user 'nemo-nobody'" "allow = nemo-nobody read books"
rule "an unknown group is named" "no group 'nemo-none'" "allow = @nemo-none read books"
rule "an unknown right is named" "'own' is not a right" "allow = uid:1000 own books"
rule "a groove that cannot be is named" "'my-books'" "allow = uid:1000 read my-books"
rule "two words are too few" "three words" "allow = uid:1000 read"
rule "four words are too many" "three words" "allow = uid:1000 read books coins"
rule "a number that is none" "not a user" "allow = uid:1e3 read books"
rule "the unmapped user cannot be allowed" "never allowed" "allow = uid:65534 read *"
rule "nobody is the unmapped user" "never allowed" "allow = nobody read *"

# ---- Users ----

if [ "$(id -u)" != 0 ]; then
    printf '# not root: what other users may do was not tried\n'
    exit $FAILED
fi
chmod 0755 "$WORK" # The others come through here, to the socket and to the program.
cp "$HOLT" holt
cat >access.conf <<'END'
cache = 8M
socket-mode = 0666
allow = uid:3001 read  books    # comments as everywhere
allow = uid:3002 write books
allow = uid:3003 admin books
allow = uid:3004 read  *
allow = "uid:3005 write *"
allow = uid:3006 admin *
allow = uid:3008 read  books
allow = uid:3008 write coins
allow = daemon   write coins
allow = @bin     read  coins
allow = *        read  public
allow = uid:3009 admin ghost
END
expect "the plan lists the rules and their lines" 0 \
    "allow              daemon (1) write coins           file, line 11" \
    "$HOLT" start a.holt --config access.conf --plan
same "as JSON, too" "$("$HOLT" start a.holt --config access.conf --plan --json | python3 -c '
import json, sys
rules = json.load(sys.stdin)["access"]
print(len(rules), rules[9]["who"], rules[9]["uid"], rules[9]["right"], rules[9]["groove"],
      "uid" in rules[10], rules[11]["line"])')" "12 @bin 2 read coins False 14"

for listener in nng native; do
    rm -f a.holt
    "$HOLT" format a.holt --block-size 16K >/dev/null
    : >daemon.log
    daemon_start a.holt --config access.conf --listener $listener
    same "$listener: the socket's mode is what it was told" "$(stat -c %a a.holt.sock)" "666"
    expect "$listener: a health check needs no right" 0 "answers" \
        "$HOLT" ping --socket a.holt.sock
    expect "$listener: a command that is denied says what lacks" 77 "lacks the right 'admin'" \
        "$HOLT" create books 'size u64' --socket a.holt.sock
    while read -r line; do
        printf '%s\n' "${line/ok /ok $listener: }"
        case $line in not*) FAILED=1 ;; esac
    done < <("$TOOLS/access_client" "$WORK/a.holt.sock" || printf 'not ok access_client\n')
    counted=$(setpriv --reuid 3004 --clear-groups ./holt stat --json --socket a.holt.sock |
        python3 -c 'import json, sys
print(sum(json.load(sys.stdin)["access"]["denied_total"].values()))')
    lines=$(grep -c 'event=access.denied' daemon.log)
    if [ "$counted" -gt 200 ] && [ "$lines" -ge 1 ] && [ "$lines" -le 60 ]; then
        ok "$listener: denials are counted, and logged at a bounded rate"
    else
        not_ok "$listener: denials are counted, and logged at a bounded rate" \
            "$counted denials, $lines lines"
    fi
    daemon_stop TERM || not_ok "$listener: the daemon stops"
done

# ---- Without rules ----

rm -f a.holt
"$HOLT" format a.holt --block-size 16K >/dev/null
daemon_start a.holt --cache 8M --socket-mode 0666
expect "without rules everybody whom the socket lets in may do everything" 0 "" \
    setpriv --reuid 3001 --clear-groups ./holt create books 'size u64' --socket a.holt.sock
expect "but never the unmapped user" 77 "65534" \
    setpriv --reuid 65534 --clear-groups ./holt stat --socket a.holt.sock
daemon_stop TERM || not_ok "the daemon stops"

# ---- Directories ----

mkdir open
chmod 0777 open
"$HOLT" format open/a.holt --block-size 16K >/dev/null
: >daemon.log
daemon_start open/a.holt --cache 8M
same "a directory that anybody may change is warned of" \
    "$(grep -c 'event=directory.open' daemon.log)" "2"
daemon_stop TERM || not_ok "the daemon stops"
chmod 1777 open
: >daemon.log
daemon_start open/a.holt --cache 8M
same "with the sticky bit it is well" "$(grep -c 'event=directory.open' daemon.log)" "0"
daemon_stop TERM || not_ok "the daemon stops"
exit $FAILED
