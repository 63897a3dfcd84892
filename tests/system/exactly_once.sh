#!/usr/bin/env bash
# Goal: a numbered write takes effect once, whatever happens to the daemon, to connections and to
# replies. exactly_once.py has 16 clients increment counters while it kills the daemon, which comes
# back with the other listener; the sum is exact.
#
# HOLT_LISTENER=nng or native for that one only. KILLS=200 for a long campaign, SEED=n for the same
# choices again (moments are never the same).
. "$(dirname "$0")/common.sh"

KILLS=${KILLS:-12}
SEED=${SEED:-$(date +%s)}
read -ra LISTENERS <<<"${HOLT_LISTENER:-native nng}"
export PYTHONDONTWRITEBYTECODE=1
printf '# SEED=%d KILLS=%d\n' "$SEED" "$KILLS"

# Small blocks have small bars: checkpoints are never far.
"$HOLT" format a.holt --block-size 4K >/dev/null
code=0
output=$(timeout 400 "$REPOSITORY/tests/system/exactly_once.py" "$HOLT" a.holt "$KILLS" "$SEED" \
    "${LISTENERS[@]}" 2>&1) || code=$?
printf '%s\n' "$output"
grep -q '^not ok ' <<<"$output" && FAILED=1
same "it came to its end" "$code" 0
[ $FAILED = 0 ] || tail -n 20 daemon.log
expect "verify" 0 "no problems" "$HOLT" verify a.holt
exit $FAILED
