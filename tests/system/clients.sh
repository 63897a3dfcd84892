#!/usr/bin/env bash
# Goal: libholt as others meet it. It is installed; programs are built against it through pkg-config
# and through CMake, shared and static; they and Python programs run against the real daemon on both
# listeners, which is killed and started again under them, and nothing is lost or done twice.
. "$(dirname "$0")/common.sh"

BUILD=$(dirname "$HOLT")
EXAMPLES=$REPOSITORY/ipc/libholt/examples
read -ra LISTENERS <<<"${HOLT_LISTENER:-native nng}"
PREFIX=$WORK/usr

expect "cmake --install" 0 "" cmake --install "$BUILD" --component libholt --prefix "$PREFIX"
PC=$(dirname "$(find "$PREFIX" -name holt.pc)")
LIB=$(dirname "$PC")
export PKG_CONFIG_PATH=$PC

# ---- What is in it ----

same "only holt_* is visible in the shared library" \
    "$(nm -D --defined-only "$LIB/libholt.so" | awk '$3 !~ /^(holt_|HOLT_1$)/')" ""
same "and in the archive" \
    "$(nm -g --defined-only "$LIB/libholt.a" | awk 'NF == 3 && $3 !~ /^holt_/')" ""
declared=$(grep -o '\bholt_[a-z0-9_]*(' "$PREFIX/include/holt.h" | tr -d '(' | sort -u)
same "what the header declares is there, and nothing else" \
    "$(nm -D --defined-only "$LIB/libholt.so" | awk '$2 == "T" {print $3}' | sed 's/@.*//' | sort -u)" \
    "$declared"
same "its soname" "$(objdump -p "$LIB/libholt.so" | awk '/SONAME/ {print $2}')" libholt.so.1
same "it needs libc alone" \
    "$(objdump -p "$LIB/libholt.so" | awk '/NEEDED/ {print $2}' | grep -v '^libc\.')" ""
echo '#include <holt.h>' >header.c
for language in "c -std=c11" "c++ -std=c++11"; do
    # shellcheck disable=SC2086 # Words.
    expect "the header alone, as ${language%% *}" 0 "" clang -x $language -fsyntax-only -Wall \
        -Wextra -Wpedantic -Werror -I "$PREFIX/include" header.c
done

# ---- Programs ----

mkdir pc
for name in first transfer many; do
    # shellcheck disable=SC2046 # Words.
    expect "$name, by pkg-config" 0 "" gcc -std=c11 -Wall -Wextra -Wpedantic -Werror \
        "$EXAMPLES/$name.c" $(pkg-config --define-variable=prefix="$PREFIX" --cflags --libs holt) \
        -Wl,-rpath,"$LIB" -o "pc/$name"
done
# shellcheck disable=SC2046
expect "first, static, by pkg-config" 0 "" gcc -std=c11 "$EXAMPLES/first.c" \
    $(pkg-config --define-variable=prefix="$PREFIX" --cflags holt) "$LIB/libholt.a" -pthread \
    -o pc/first_static
expect "CMake finds the package" 0 "" cmake -G Ninja -S "$EXAMPLES" -B cm \
    -D CMAKE_PREFIX_PATH="$PREFIX"
expect "and builds with it" 0 "" cmake --build cm

# many_beside_kills COUNT: numbered writes while the daemon is killed and comes back.
many_beside_kills()
{
    local code=0 round client
    "$HOLT" drop event >/dev/null
    pc/many "$1" >many.out 2>&1 &
    client=$!
    for round in 1 2 3; do
        while [ "$("$HOLT" count event 2>/dev/null || echo 0)" -lt $(($1 * (round - 1) / 4 + 1)) ]; do
            kill -0 "$client" 2>/dev/null || break
        done
        daemon_stop KILL
        daemon_start a.holt --cache 8M --listener "$listener"
    done
    wait "$client" || code=$?
    same "$listener: $1 writes while the daemon is killed three times" \
        "$code $("$HOLT" count event)" "0 $1"
    [ $code = 0 ] || cat many.out
    if ! grep -q ' [2-9] connections' many.out; then
        not_ok "$listener: it connected anew" "$(cat many.out)"
    fi
}

# ---- Python ----

PYTHON=$PREFIX/lib/python3/dist-packages
export HOLT_LIBRARY=$LIB/libholt.so.1 PYTHONDONTWRITEBYTECODE=1
declare -A EXPECTED=(
    ["first.py"]="Schaan: 5998 people
town(id=3, name='Graz', country='AT', people=300000, latitude=47.07)
3 towns, 2 of them in Liechtenstein"
    ["transfer.py 3 40"]="5000"
    ["at_once.py"]="300 written
1194 planets
[42, 43, 43, 43, 43, 43, 43] ['star 4', 'star 11', 'star 18']"
    ["errors.py"]="[(0, 'EXISTS')]
OutOfRange: name text<8>: 'far too long': the value does not fit
OutOfRange: size u8: 256: the value does not fit
OutOfRange: size u8: -1: the value does not fit
WrongType: size u8: 'big': the field is of another type
BadArgument: groove thing has no field colour
there is no groove nothing
True 101"
)

# ---- Both, against the daemon ----

for listener in "${LISTENERS[@]}"; do
    rm -f a.holt
    "$HOLT" format a.holt --block-size 8K >/dev/null
    daemon_start a.holt --cache 8M --listener "$listener"
    export HOLT_SOCKET=$WORK/a.holt.sock
    expect "$listener: first" 0 "Schaan: 5998 people
3 cities" pc/first
    for program in pc/first_static cm/first cm/first_static; do
        expect "$listener: $program" 0 "3 cities" "$program"
    done
    expect "$listener: transfer" 0 "moved" pc/transfer 1 2 300
    expect "$listener: a second one, built otherwise" 0 "moved" cm/transfer 2 1 50
    expect "$listener: more than there is" 0 "not enough" pc/transfer 1 2 751
    for _ in 1 2 3 4; do
        pc/transfer 1 2 10 >/dev/null &
    done
    # shellcheck disable=SC2046 # Words.
    wait $(jobs -p | grep -v "^$DAEMON$")
    balances() { "$HOLT" get account 1 2 --json | python3 -c 'import json, sys
print(*(json.loads(line)["balance"] for line in sys.stdin))'; }
    same "$listener: four at once" "$(balances)" "710 1290"
    same "$listener: each left a record" "$("$HOLT" count transfer)" 6
    expect "$listener: many" 0 "3000 written, 0 failed" pc/many 3000
    many_beside_kills 50000
    output=$(PYTHONPATH=$PYTHON "$REPOSITORY/tests/system/python_client.py" "$DAEMON" 2>&1) || code=$?
    sed -E "s/^(ok|not ok) /&$listener: python: /" <<<"$output"
    [ "${code:-0}" = 0 ] || not_ok "$listener: python" "exit code $code"
    for program in "first.py" "transfer.py 3 40" "at_once.py" "errors.py"; do
        # shellcheck disable=SC2086
        expect "$listener: python: $program" 0 "${EXPECTED[$program]}" \
            env PYTHONPATH="$PYTHON" "$REPOSITORY"/ipc/python/examples/$program
    done
    daemon_stop TERM
    expect "$listener: verify" 0 "no problems" "$HOLT" verify a.holt
done
exit $FAILED
