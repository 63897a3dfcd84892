#!/usr/bin/env bash
# Goal: nothing wears off. The campaign of endurance.c against a real daemon on both listeners: each
# request takes effect once although every twentieth is sent again, and daemon and client hold no
# more at the end than in the middle. Small as it stands; `./dev endurance` is a million requests.
#
#   endurance.sh [--requests N] [--reconnects N] [--listener native|nng] [--slack KIB]
. "$(dirname "$0")/common.sh"

ENDURANCE=$(dirname "$HOLT")/endurance
read -ra LISTENERS <<<"${HOLT_LISTENER:-native nng}"
arguments=()
while [ $# -ge 2 ]; do
    case $1 in
    --listener) LISTENERS=("$2") ;;
    --requests | --reconnects | --slack) arguments+=("$1" "$2") ;;
    *) break ;;
    esac
    shift 2
done
[ $# = 0 ] || { sed -n '/^#  *endurance.sh/s/^# *//p' "$0" >&2; exit 64; }

for listener in "${LISTENERS[@]}"; do
    rm -f a.holt
    "$HOLT" format a.holt --block-size 32K >/dev/null
    daemon_start a.holt --cache 16M --listener "$listener"
    "$ENDURANCE" a.holt.sock "$DAEMON" --label "$listener: " "${arguments[@]}" || FAILED=1
    daemon_stop TERM
    expect "$listener: verify" 0 "no problems" "$HOLT" verify a.holt
done
exit $FAILED
