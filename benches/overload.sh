#!/usr/bin/env bash
# Shows what one client that misbehaves does to the others and to the broker's memory, beside Debian's mosquitto.
#
# A client sends 1,000 messages per second to another one: alone; beside a publisher that sends as fast as it can to a
# subscriber of its own; and beside a subscriber that is stopped and is sent everything at full rate.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: benches/overload.sh [OPTIONS]

  --seconds S      seconds of each part but the last [10]
  --stalled S      seconds for which a subscriber reads nothing [60]
  --base-port P    first of thirty loopback ports to use [18960]
  --no-build       measure the binary that is there

Environment: CAUSEWAY = binary to measure [target/release/causeway], MOSQUITTO = peer.
Needs: mosquitto, jq.
USAGE
}

seconds=10 stalled=60 base_port=18960 build=yes
while (($#)); do
    case $1 in
        --seconds) seconds=$2; shift ;;
        --stalled) stalled=$2; shift ;;
        --base-port) base_port=$2; shift ;;
        --no-build) build=no ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
# shellcheck source=benches/lib.sh
source "$(dirname "$0")/lib.sh"
need jq awk pgrep "$mosquitto"
[[ $build == no ]] || build

# The well-behaved client for so many seconds: its latency, p50 and p99 in microseconds.
victim() {
    "$causeway" bench pairs --pairs 1 --rate 1000 --topic-prefix well --port "$port" --duration "$1" --warmup 1 \
        --json | jq -r '"\(.latency_us.p50) \(.latency_us.p99)"'
}

resident_mib() {
    local pid sum=0
    for pid in "${servers[@]}"; do sum=$((sum + $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status"))); done
    echo $((sum / 1024))
}

# A flood for so many seconds, to topics below `flood`.
flood() {
    "$causeway" bench pairs --pairs 1 --payload 256 --topic-prefix flood --port "$port" --duration "$1" --warmup 0 \
        --window "$2" --drain 1 >"$work/flood.log" 2>&1 || true
}

measure() {
    local system=$1 alone flooded stopped before peak now flooding sub deadline
    next_port
    shift
    "$@"
    alone=$(victim "$seconds")
    flood $((seconds + 4)) 1000 &
    flooding=$!
    sleep 1
    flooded=$(victim "$seconds")
    wait "$flooding"
    "$causeway" sub -p "$port" -t 'flood/#' >/dev/null 2>&1 &
    sub=$!
    started+=("$sub")
    sleep 1
    kill -STOP "$sub"
    before=$(resident_mib) peak=0
    flood "$stalled" 1000 &
    flooding=$!
    victim $((stalled - 2)) >"$work/victim" &
    deadline=$((SECONDS + stalled))
    while ((SECONDS < deadline)); do
        now=$(resident_mib)
        ((now <= peak)) || peak=$now
        sleep 0.5
    done
    wait "$flooding"
    for _ in {1..50}; do [[ -s $work/victim ]] && break; sleep 0.2; done
    stopped=$(cat "$work/victim")
    kill -CONT "$sub"
    stop
    awk -v name="$system" -v a="$alone" -v f="$flooded" -v s="$stopped" -v before="$before" -v peak="$peak" 'BEGIN {
        split(a, alone, " "); split(f, flooded, " "); split(s, stopped, " ")
        printf "| %s | %.0f / %.0f | %.0f / %.0f (%.1f x) | %.0f / %.0f (%.1f x) | %d | %d |\n", name, alone[1], alone[2],
            flooded[1], flooded[2], flooded[2] / alone[2], stopped[1], stopped[2], stopped[2] / alone[2], before, peak
    }'
}

echo "| latency of others, p50 / p99 us | alone | beside a flood | beside that and a subscriber stopped for $stalled s | MiB before | MiB at most |"
echo '|---|---|---|---|---|---|'
measure mosquitto start_mosquitto 'set_tcp_nodelay true'
measure causeway start_causeway 1
