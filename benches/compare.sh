#!/usr/bin/env bash
# Measures this broker beside Debian's mosquitto on the same machine in the same hour, and prints
# the medians as Markdown. A cost is processor time per delivered message, not a rate.
#
# Each figure comes from a broker started for it alone. Brokers take turns, and who goes first
# changes from round to round, so that a machine that slows down slows both. Only processes that
# this script started are stopped. See benches/README.md for how to read the result.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: benches/compare.sh [OPTIONS]

  --quick          one round, 2 s per load, 10,000 filters, 2,000 idle connections
  --rounds N       rounds, of which the median counts [3]
  --seconds S      seconds measured per load [5]
  --filters N      wildcard filters in the index test [100000]
  --connections N  idle connections [15000]
  --only REGEX     only loads whose name matches, e.g. 'pairs-q1' or 'cross|idle'
  --base-port P    first of ten loopback ports to use [18830]
  --no-build       measure the binary that is there
  --results FILE   keep every single figure here, as lines of JSON

Environment: CAUSEWAY = binary to measure [target/release/causeway], MOSQUITTO = peer [mosquitto]
Needs: mosquitto, jq, and for the idle load more than 15,000 file descriptors (ulimit -n).
USAGE
}

rounds=3 seconds=5 filters=100000 connections=15000 only=. base_port=18830 build=yes results=
while (($#)); do
    case $1 in
        --quick) rounds=1 seconds=2 filters=10000 connections=2000 ;;
        --rounds) rounds=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --filters) filters=$2; shift ;;
        --connections) connections=$2; shift ;;
        --only) only=$2; shift ;;
        --base-port) base_port=$2; shift ;;
        --no-build) build=no ;;
        --results) results=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

root=$(cd "$(dirname "$0")/.." && pwd)
causeway=${CAUSEWAY:-$root/target/release/causeway}
mosquitto=${MOSQUITTO:-$(command -v mosquitto || echo /usr/sbin/mosquitto)}
for tool in "$mosquitto" jq awk pgrep; do
    command -v "$tool" >/dev/null || { echo "compare.sh needs $tool" >&2; exit 2; }
done
if [[ $build == yes ]]; then
    (cd "$root" && cargo build --release --locked -p causeway) >&2
fi

work=$(mktemp -d)
results=${results:-$work/results.jsonl}
: >"$results"
started=() # every process this script has started and not yet stopped
servers=() # those whose cost counts
broken=0

stop() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do
        for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    started=() servers=()
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Waits until a message gets through from port $1 to port $2.
await() {
    for _ in {1..200}; do
        if "$causeway" bench pairs --pairs 1 --qos 1 --messages 1 --warmup 0 --drain 0.5 \
            --publish-to "127.0.0.1:$1" --subscribe-to "127.0.0.1:$2" >/dev/null 2>&1; then
            return
        fi
        kill -0 "${started[0]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "no message gets from port $1 to port $2; the broker's output:" >&2
    tail -n 20 "$work/broker.log" >&2
    exit 1
}

# A fresh port for each broker keeps connections of the last one out of the way.
port=$base_port
next_port() {
    for _ in {1..5}; do
        port=$((base_port + (port - base_port + 2) % 10))
        is_free "$port" && is_free $((port + 1)) && return
    done
    echo "all ports from $base_port on are taken; see --base-port" >&2
    exit 1
}
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

mosquitto_options=() # further lines of its configuration
start_mosquitto() {
    {
        echo "listener $port 127.0.0.1"
        printf '%s\n' 'allow_anonymous true' 'max_inflight_messages 0' \
            'max_queued_messages 0' 'persistence false' "${mosquitto_options[@]}"
    } >"$work/mosquitto.conf"
    chmod -R a+rX "$work"
    "$mosquitto" -c "$work/mosquitto.conf" >"$work/broker.log" 2>&1 &
    started=($!) servers=($!)
    await "$port" "$port"
}

# Proxies, and an intermediate with the store: all of them count.
start_proxies() {
    "$causeway" up --proxies "$1" --base-port "$port" >"$work/broker.log" 2>&1 &
    started=($!)
    await "$port" $((port + $1 - 1))
    mapfile -t servers < <(pgrep -P "${started[0]}")
}
start_one() { start_proxies 1; }
start_cluster() { start_proxies 2; }

# measure LOAD SYSTEM FIGURE STARTER -- BENCH ARGUMENTS: runs one load and keeps one figure.
measure() {
    local load=$1 system=$2 figure=$3 starter=$4 pids=() pid json status=0
    shift 5
    next_port
    "$starter"
    for pid in "${servers[@]}"; do pids+=(--pid "$pid"); done
    set -- "${@//PORT1/$port}"
    json=$("$causeway" bench "${@//PORT2/$((port + 1))}" --port "$port" "${pids[@]}" --json) ||
        status=$?
    stop
    if ((status != 0)); then
        broken=$((broken + 1))
        echo "FAILED: $load on $system (exit code $status)" >&2
        jq -c '.checks' <<<"$json" >&2 || true
    fi
    [[ -n $json ]] || return 0
    jq -c --arg load "$load" --arg system "$system" --arg figure "$figure" --argjson ok "$((status == 0))" \
        '{load: $load, system: $system, ok: ($ok == 1), value: getpath($figure | split(".")),
          rate: (.delivered_per_sec // null), own: .own_cpu_us_per_delivered, result: .}' \
        <<<"$json" >>"$results"
    echo "  $load $system: $(tail -n 1 "$results" | jq -r .value)" >&2
}

# compare LOAD FIGURE -- BENCH ARGUMENTS: the same on both brokers.
compare() {
    local load=$1 figure=$2
    shift 3
    [[ $load =~ $only ]] || return 0
    if ((round % 2)); then
        measure "$load" mosquitto "$figure" start_mosquitto -- "$@"
        measure "$load" causeway "$figure" start_one -- "$@"
    else
        measure "$load" causeway "$figure" start_one -- "$@"
        measure "$load" mosquitto "$figure" start_mosquitto -- "$@"
    fi
}

# queue LOAD -- BENCH ARGUMENTS: what it costs to keep a message, and to give it out.
queue() {
    local load=$1 phase
    shift 2
    [[ $load =~ $only ]] || return 0
    for phase in queue drain; do
        compare "$load-$phase" "$phase.broker_cpu_us_each" -- queue "$@"
    done
}

cross() { # like compare, with the publisher on one proxy and the subscriber on the other
    local load=$1
    shift 2
    [[ $load =~ $only ]] || return 0
    measure "$load" causeway broker_cpu_us_per_delivered start_cluster -- "$@"
}

ulimit -n "$(ulimit -Hn)"
if [[ $(ulimit -n) != unlimited ]] && (($(ulimit -n) < connections + 100)); then
    connections=$(($(ulimit -n) - 100))
    echo "file descriptors allow $connections idle connections only" >&2
fi

cpu=broker_cpu_us_per_delivered
timing=(--duration "$seconds" --warmup 1)
for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds" >&2
    for payload in 16 256; do
        for qos in 0 1 2; do
            compare "pairs-q$qos-$payload" $cpu -- \
                pairs --pairs 10 --qos $qos --payload $payload "${timing[@]}"
        done
        compare "fanout-$payload" $cpu -- \
            fanout --subscribers 100 --payload $payload "${timing[@]}"
    done
    compare few-in-flight $cpu -- pairs --pairs 10 --qos 1 --inflight 10 "${timing[@]}"
    # Without this option mosquitto holds small messages back for up to 40 ms.
    mosquitto_options=('set_tcp_nodelay true')
    compare latency-5000 latency_us.p50 -- pairs --pairs 1 --rate 5000 "${timing[@]}"
    mosquitto_options=()
    compare filters $cpu -- pairs --pairs 10 --filters "$filters" "${timing[@]}"
    for qos in 1 2; do
        compare "kept-q$qos" $cpu -- pairs --pairs 10 --persistent --qos $qos "${timing[@]}"
    done
    queue offline -- --sessions 1000 --messages 200
    queue deep -- --sessions 1 --messages 90000
    compare idle broker_kib_per_connection -- idle --connections "$connections"
    for qos in 0 1 2; do
        cross "cross-q$qos" -- pairs --pairs 10 --qos $qos "${timing[@]}" \
            --publish-to "127.0.0.1:PORT1" --subscribe-to "127.0.0.1:PORT2"
    done
    for qos in 1 2; do
        cross "cross-kept-q$qos" -- pairs --pairs 10 --persistent --qos $qos "${timing[@]}" \
            --publish-to "127.0.0.1:PORT1" --subscribe-to "127.0.0.1:PORT2"
    done
done

# The run at a fixed rate also tells what a message costs when none shares its wake-up.
jq -c 'select(.load == "latency-5000") | .load = "cost-5000" | .rate = null
       | .value = .result.broker_cpu_us_per_delivered' "$results" >"$work/more.jsonl"
cat "$work/more.jsonl" >>"$results"

# median LOAD SYSTEM FIELD
median() {
    jq -r --arg load "$1" --arg system "$2" --arg field "$3" \
        'select(.load == $load and .system == $system) | .[$field] // empty' "$results" |
        sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'
}

cell() { # LOAD SYSTEM
    local value rate
    value=$(median "$1" "$2" value)
    rate=$(median "$1" "$2" rate)
    awk -v value="$value" -v rate="$rate" 'BEGIN {
        if (value == "") { print "-" }
        else if (rate == "") { printf "%.2f", value }
        else { printf "%.2f (%.0f k/s)", value, rate / 1000 }
    }'
}

row() { # NAME LEFT-LOAD LEFT-SYSTEM RIGHT-LOAD RIGHT-SYSTEM LIMIT
    local left right ratio
    left=$(median "$2" "$3" value)
    right=$(median "$4" "$5" value)
    [[ -n $left || -n $right ]] || return 0
    ratio=$(awk -v l="${left:-0}" -v r="${right:-0}" 'BEGIN { if (l > 0 && r > 0) printf "%.2f", r / l; else print "-" }')
    echo "| $1 | $(cell "$2" "$3") | $(cell "$4" "$5") | $ratio | $6 |"
}

peer() { row "$1" "$2" mosquitto "$2" causeway "$3"; }

echo
echo "$(date -u +%F), $(nproc) x $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)," \
    "Linux $(uname -r), $("$mosquitto" -h | head -n 1); median of $rounds, $seconds s per load"
echo
echo '| one proxy and an intermediate | mosquitto | causeway | ratio | aim |'
echo '|---|---|---|---|---|'
for payload in 16 256; do
    peer "pairs, QoS 0, $payload B: CPU us per message" "pairs-q0-$payload" 0.8
    peer "pairs, QoS 1, $payload B: CPU us per message" "pairs-q1-$payload" 0.7
    peer "pairs, QoS 2, $payload B: CPU us per message" "pairs-q2-$payload" 0.7
    peer "fan-out 1:100, QoS 0, $payload B: CPU us per message" "fanout-$payload" 0.5
done
peer 'pairs, QoS 1, 10 in flight: CPU us per message' few-in-flight -
peer '5,000 messages per second: p50 us' latency-5000 1.5
peer '5,000 messages per second: CPU us per message' cost-5000 -
for qos in 1 2; do
    peer "pairs with persistent sessions, QoS $qos, 16 B: CPU us per message" "kept-q$qos" -
done
peer '1,000 clients away, 200 messages of 256 B for each: CPU us to queue one' offline-queue -
peer 'the same: CPU us to give one out' offline-drain -
peer 'one client away, 90,000 messages of 256 B: CPU us to queue one' deep-queue -
peer 'the same: CPU us to give one out' deep-drain -
peer "$connections idle connections: KiB each" idle '8 KiB'
echo
echo "| what it adds | without | with | ratio | aim |"
echo '|---|---|---|---|---|'
row "$filters wildcard filters: CPU us per message" pairs-q0-16 causeway filters causeway 1.2
row "the same in mosquitto" pairs-q0-16 mosquitto filters mosquitto -
for qos in 0 1 2; do
    row "QoS $qos across two proxies and an intermediate: CPU us per message" \
        "pairs-q$qos-16" causeway "cross-q$qos" causeway 3
done
for qos in 1 2; do
    row "QoS $qos across proxies, from clean to persistent sessions: CPU us per message" \
        "cross-q$qos" causeway "cross-kept-q$qos" causeway 2
done
echo
jq -r 'select(.own != null and .result.settings.rate_per_sec == null) | .own / .result.broker_cpu_us_per_delivered' "$results" |
    sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "The load tool itself used %.2f (median) to %.2f (most) of the processor time of the broker.\n", v[int((NR + 1) / 2)], v[NR] }'
if ((broken)); then
    echo "**$broken runs FAILED their checks or could not be made; see above.**"
    exit 1
fi
echo 'Every run passed its checks: nothing lost, nothing twice, nothing out of order.'
