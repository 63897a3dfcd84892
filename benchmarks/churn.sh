#!/usr/bin/env bash
# Does the store give back what it no longer needs, and do small requests cost no more than big ones?
#
#   1. fill, update everything three times, remove everything, wait until no compaction is owed:
#      live blocks against those of an empty forest
#   2. single inserts from 32 clients against the same load in big batches: blocks written
#
#   benchmarks/churn.sh [--count 1M] [--updates 3] [--single-count 1M] [--clients 32]
#                       [--settle 600] [--block-size 32K]
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/load/common.sh

count=1M updates=3 single_count=1M clients=32 settle=600 block_size=32K
while [ $# -ge 2 ]; do
    case $1 in
    --count) count=$2 ;;
    --updates) updates=$2 ;;
    --single-count) single_count=$2 ;;
    --clients) clients=$2 ;;
    --settle) settle=$2 ;;
    --block-size) block_size=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 64; }
count=$(number "$count")
single_count=$(number "$single_count")

# ratio A B: of which B may be nothing, when so little was loaded that it stayed in memory.
ratio() { if [ "$2" = 0 ]; then printf 'none'; else calculate "$1 / $2"; fi; }

fresh()
{
    prepare "$1"
    "$HOLT" format "$DATA" --block-size "$block_size" >/dev/null
    # shellcheck disable=SC2119 # No flags.
    daemon_start
}

fresh churn
machine
empty=$(live_blocks <<<"$(stat_json)")
result=$(load --count "$count" --update-rounds "$updates" --remove --settle "$settle")
after=$(live_blocks <<<"$(stat_json)")
daemon_stop
get() { field "$1" <<<"$result"; }
printf '\n%s objects: filled, updated %s times, removed\n\n' "$count" "$updates"
for phase in insert update remove; do
    row "$phase/s" "$(get ${phase}_per_s), slowest batch $(get ${phase}_max_ratio) x the median"
done
row "settled in s" "$(get settle_s)"
row "live blocks, empty forest" "$empty"
row "live blocks, at most" "$(get blocks_live_max)"
row "live blocks, after" "$after, the difference is $(ratio $((100 * (after - empty))) "$(get blocks_live_max)") % of the most"
row "file" "$(calculate "$(get blocks_grown) * $(get block_size) / 1e9") GB"
row "blocks written" "$(get blocks_written)"
"$HOLT" verify "$DATA" 2>/dev/null || fail "verify found damage"

# stream NAME FLAGS...: sets written and settled, the blocks written at its end and when settled.
stream()
{
    local name=$1
    shift
    fresh "$name"
    result=$(load --count "$single_count" "$@")
    written=$(get blocks_written)
    load --count 0 --settle "$settle" >/dev/null
    settled=$(stat_json | field blocks_written) # Since the daemon started, and that was with this.
    daemon_stop
    row "$name" "$(get insert_per_s)/s; $written blocks written, $settled when settled"
}
printf '\n%s objects, as single inserts of %s clients and in big batches\n\n' "$single_count" "$clients"
stream batches
batches=$written batches_settled=$settled
stream single --single --clients "$clients" --in-flight 1
row "single : batches" "$(ratio "$written" "$batches"), when settled $(ratio "$settled" "$batches_settled")"
