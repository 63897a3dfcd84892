#!/usr/bin/env bash
# Builds the image and uses it as docs/container.md says: a hardened daemon, clients in containers
# of their own, a SIGKILL, a stop; then the same by compose.yaml. Prints "ok" or "not ok" for each
# case and a summary; exit code 0 when all went well.
#
# Needs root on Debian, and of the network only what apt needs: the base image is bootstrapped from
# this machine's own package sources instead of pulled, and kept as build/container/base.tar.
# Images, containers and volumes live in a store of their own, which is removed at the end, so
# nothing of this machine's own podman is touched. Isolation is chroot and the runtime runc, because these work
# inside virtual machines and containers where crun and the defaults do not.
set -euo pipefail
cd "$(dirname "$0")/../.."

PACKAGES=(buildah podman runc mmdebstrap docker-compose)
BASE_TAR=build/container/base.tar
BASE=localhost/holt-base
IMAGE=localhost/holt
COMPOSE_PROJECT=holt-test
DATA_FILE=/var/lib/holt/data.holt
ROW_COUNT=3000 # a third each of oak, ash and elm
STRANGER=20002:20002
HOLT_GROUP=10001
COMMAND_TIMEOUT_S=120
BUILD_TIMEOUT_S=900

HARDENED=(--network none --read-only --cap-drop ALL --security-opt no-new-privileges
          --pids-limit 128 --memory 1280m --memory-swap 1280m)
CLIENT=(run --rm --no-healthcheck "${HARDENED[@]}" --user "$STRANGER")

PASSED=0
FAILED=0
SERVICE_PID=

say() { printf '== %s\n' "$*"; }

die()
{
    printf 'container.sh: %s\n' "$*" >&2
    exit 2
}

# Only what the command itself has to say: without systemd, podman complains of missing timers.
engine()
{
    timeout "$COMMAND_TIMEOUT_S" podman --log-level fatal --root "$WORK/store" \
        --runroot "$WORK/run" "$@"
}

compose() { timeout "$COMMAND_TIMEOUT_S" docker-compose -p "$COMPOSE_PROJECT" "$@"; }

# check NAME COMMAND...: one case. The command runs with errexit, so each of its lines must succeed.
check()
{
    local name=$1 code=0
    shift
    set +e
    (
        set -e
        "$@"
    ) >"$WORK/case.log" 2>&1 </dev/null
    code=$?
    set -e
    if [ "$code" = 0 ]; then
        PASSED=$((PASSED + 1))
        printf 'ok      %s\n' "$name"
    else
        FAILED=$((FAILED + 1))
        printf 'not ok  %s: exit code %d\n%s\n' "$name" "$code" \
            "$(tail -n 40 "$WORK/case.log" | sed 's/^/        /')"
    fi
}

# equal WANTED COMMAND...: the command succeeds and prints just this.
equal()
{
    local wanted=$1 found
    shift
    found=$("$@")
    [ "$found" = "$wanted" ] || {
        printf 'wanted: %s\nfound:  %s\n' "$wanted" "$found"
        return 1
    }
}

# refused EXIT_CODE TEXT COMMAND...: the command fails with this code and says this.
refused()
{
    local wanted=$1 text=$2 code=0 output
    shift 2
    output=$("$@" 2>&1) || code=$?
    printf 'exit code %d: %s\n' "$code" "$output"
    [ "$code" = "$wanted" ] && [[ $output == *"$text"* ]]
}

clean_up()
{
    local folder
    if [ -n "$SERVICE_PID" ]; then
        kill "$SERVICE_PID" 2>/dev/null || true
        wait "$SERVICE_PID" || true
    fi
    engine rm --all --force --time 2 --volumes >/dev/null || true
    umount --recursive "$WORK/store/overlay" 2>/dev/null || true # The store mounts itself.
    rm -rf "$WORK"
    for folder in /sys/fs/cgroup/libpod_parent /sys/fs/cgroup/*/libpod_parent; do
        [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}

install_packages()
{
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# In memory where there is any: dpkg syncs every file. Neither the resolver's nor the host's name of
# this machine belongs in an image.
make_base()
{
    local folder sources=() file
    [ ! -s "$BASE_TAR" ] || return 0
    say "bootstrapping the base image"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources \
        /etc/apt/sources.list.d/*.list; do
        [ ! -s "$file" ] || sources+=("$file")
    done
    folder=$WORK
    [ ! -w /dev/shm ] || folder=$(mktemp -d -p /dev/shm)
    chmod 0755 "$folder"
    mkdir -p "$(dirname "$BASE_TAR")"
    # shellcheck disable=SC2016 # It is mmdebstrap that fills in $1.
    TMPDIR=$folder mmdebstrap --variant=minbase --quiet --format=tar \
        --customize-hook=': >"$1/etc/resolv.conf"; : >"$1/etc/hostname"' \
        bookworm "$BASE_TAR.new" "${sources[@]}" || {
        rm -rf "$folder" "$BASE_TAR.new"
        die "the base image could not be bootstrapped"
    }
    [ "$folder" = "$WORK" ] || rm -rf "$folder"
    mv "$BASE_TAR.new" "$BASE_TAR"
}

# The format is Docker's because OCI's has no health check.
build_image()
{
    engine import --quiet "$BASE_TAR" "$BASE"
    timeout "$BUILD_TIMEOUT_S" buildah --root "$WORK/store" --runroot "$WORK/run" bud \
        --isolation chroot --pull-never --format docker --build-arg "BASE=$BASE" --tag "$IMAGE" .
}

# --- The cases ------------------------------------------------------------------------------------

image_says_how_it_is_run()
{
    equal '10001:10001 SIGTERM [holt] [holt ping]' engine image inspect --format \
        '{{.User}} {{.Config.StopSignal}} {{.Config.Entrypoint}} {{slice .HealthCheck.Test 1}}' \
        "$IMAGE"
    equal 'map[/run/holt:{} /var/lib/holt:{}]' engine image inspect \
        --format '{{.Config.Volumes}}' "$IMAGE"
}

# in_data_volume ARGUMENT...: holt in a container that sees the data volume.
in_data_volume()
{
    engine run --rm --no-healthcheck "${HARDENED[@]}" -v data:/var/lib/holt "$IMAGE" "$@"
}

format_makes_a_file_once()
{
    in_data_volume format "$DATA_FILE"
    refused 73 "$DATA_FILE" in_data_volume format "$DATA_FILE"
}

small_limit_is_refused()
{
    refused 71 "raise the container's limit" engine run --rm --no-healthcheck "${HARDENED[@]}" \
        --memory 256m --memory-swap 256m -v data:/var/lib/holt "$IMAGE"
}

await_daemon() { engine exec "$1" holt ping --wait 60; }

daemon_becomes_healthy()
{
    engine run -d --name daemon "${HARDENED[@]}" -v run:/run/holt -v data:/var/lib/holt "$IMAGE"
    await_daemon daemon
    engine healthcheck run daemon
    equal healthy engine inspect --format '{{.State.Health.Status}}' daemon
}

# What the kernel says of process 1, not what the engine was asked for.
daemon_has_no_privileges()
{
    engine exec daemon sh -c '
        grep -q "^Uid:[[:space:]]*10001[[:space:]]" /proc/1/status &&
        grep -q "^CapEff:[[:space:]]*0*$" /proc/1/status &&
        grep -q "^CapBnd:[[:space:]]*0*$" /proc/1/status &&
        grep -q "^NoNewPrivs:[[:space:]]*1$" /proc/1/status &&
        ! grep -v -e "^Inter-" -e "^ face" -e "^ *lo:" /proc/net/dev'
    refused 2 'Read-only file system' engine exec --user 0:0 daemon sh -c 'exec >/intruder'
    equal '10001:10001 600' engine exec daemon stat -c '%u:%g %a' "$DATA_FILE"
    equal '10001:10001 660' engine exec daemon stat -c '%u:%g %a' /run/holt/holt.sock
}

# client ARGUMENT...: holt as another user, in the group that may connect.
client()
{
    engine "${CLIENT[@]}" --group-add "$HOLT_GROUP" -v run:/run/holt:ro -v "$WORK/rows:/rows:ro" \
        "$IMAGE" "$@"
}

client_writes()
{
    client create trees 'species text<32>, height u32, index species, index height'
    client import trees /rows/trees.csv
}

client_finds_all()
{
    equal "$ROW_COUNT" client count trees
    equal $((ROW_COUNT / 3)) client count trees --where 'species = ash'
    client query trees --where 'height = 2026' --json | grep '"species":"ash"'
}

stranger_is_refused()
{
    refused 77 'permission denied' engine "${CLIENT[@]}" -v run:/run/holt:ro "$IMAGE" ping
}

second_daemon_is_refused()
{
    refused 75 "$DATA_FILE" in_data_volume start "$DATA_FILE" --socket "$DATA_FILE.sock"
    client ping
}

kill_loses_nothing()
{
    engine kill --signal KILL daemon
    equal 137 engine wait daemon
    engine start daemon
    await_daemon daemon
    client_finds_all
}

stop_is_clean()
{
    engine stop --time 30 daemon
    equal 0 engine inspect --format '{{.State.ExitCode}}' daemon
    engine run --rm --no-healthcheck -v run:/run/holt --entrypoint test "$IMAGE" \
        ! -e /run/holt/holt.sock
    in_data_volume verify "$DATA_FILE"
}

compose_serves_a_client()
{
    compose config --quiet
    compose run --rm holt format "$DATA_FILE"
    compose up -d
    compose run --rm client ping --wait 60
    equal 'true none 1342177280 128' engine inspect --format '{{with .HostConfig
        }}{{.ReadonlyRootfs}} {{.NetworkMode}} {{.Memory}} {{.PidsLimit}}{{end}}' \
        "${COMPOSE_PROJECT}_holt_1"
    compose stop
    equal 0 engine inspect --format '{{.State.ExitCode}}' "${COMPOSE_PROJECT}_holt_1"
    compose down --volumes
}

# docker-compose speaks to podman by Docker's protocol.
start_service()
{
    podman --log-level fatal --root "$WORK/store" --runroot "$WORK/run" \
        system service --time 0 "unix://$WORK/api.sock" >"$WORK/service.log" 2>&1 </dev/null &
    SERVICE_PID=$!
    export DOCKER_HOST=unix://$WORK/api.sock
    for ((i = 0; i < 100; i++)); do
        [ ! -S "$WORK/api.sock" ] || return 0
        sleep 0.1
    done
    die "podman's service does not start: $(cat "$WORK/service.log")"
}

[ "$(id -u)" = 0 ] || die "run me as root: mounting and cgroups need it"
command -v apt-get >/dev/null || die "this machine is not Debian; docs/container.md shows each step"
install_packages

WORK=$(mktemp -d -p /var/tmp holt-container.XXXXXX)
trap clean_up EXIT
trap 'exit 130' INT TERM
# Limits that also hold where the hard ones are low and must not be raised.
export CONTAINERS_CONF=$WORK/containers.conf
cat >"$CONTAINERS_CONF" <<'TEXT'
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
TEXT
mkdir "$WORK/rows"
awk -v count="$ROW_COUNT" 'BEGIN {
    split("oak ash elm", species, " ")
    print "species,height"
    for (i = 1; i <= count; i++) print species[i % 3 + 1] "," i
}' >"$WORK/rows/trees.csv"
chmod -R a+rX "$WORK/rows"

make_base
say "building the image"
check "the image builds" build_image
[ "$FAILED" = 0 ] || exit 1

check "the image says how it is run" image_says_how_it_is_run
check "format makes a file once" format_makes_a_file_once
check "a memory limit that is too small is refused at start" small_limit_is_refused
check "the daemon becomes healthy" daemon_becomes_healthy
check "the daemon has no privileges, no network, no file to write but its own" \
    daemon_has_no_privileges
check "a client of another user creates and imports" client_writes
check "a client of another user counts and queries" client_finds_all
check "a user outside the group is refused" stranger_is_refused
check "a second daemon on the same file is refused" second_daemon_is_refused
check "SIGKILL loses nothing that was acknowledged" kill_loses_nothing
check "SIGTERM stops it cleanly, and the file verifies" stop_is_clean
start_service
check "compose formats, starts, serves a client and stops" compose_serves_a_client

printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
[ "$FAILED" = 0 ]
