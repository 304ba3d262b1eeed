#!/usr/bin/env bash
# Measures this broker beside others on the same machine in the same hour, and prints the medians as
# Markdown. A cost is processor time per delivered message, not a rate.
#
# Each figure comes from a broker started for it alone, but for those given with --peer. Brokers take
# turns, and who goes first changes from round to round, so that a machine that slows down slows all.
# Only processes that this script started are stopped. See benches/README.md for how to read the result.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: benches/compare.sh [OPTIONS]

  --quick          one round, 2 s per load, 10,000 filters, 2,000 idle connections
  --rounds N       rounds, of which the median counts [3]
  --seconds S      seconds measured per load [5]
  --filters N      wildcard filters in the index test [100000]
  --connections N  idle connections [15000]
  --only REGEX     only loads whose name matches, e.g. 'pairs-q1' or 'cross|idle'; --only '' lists them
  --peer NAME=HOST:PORT,PID[,PID...]
                   one more broker, that runs already, with its process ids (may be repeated)
  --without NAME   leave out a peer that would be found (may be repeated)
  --base-port P    first of thirty loopback ports to use [18830]
  --no-build       measure the binary that is there
  --results FILE   keep every single run with all its figures here, as lines of JSON

Peers: mosquitto, and rumqttd if it is found (`cargo install rumqttd`).
Environment: CAUSEWAY = binary to measure [target/release/causeway], MOSQUITTO, RUMQTTD = peers.
Needs: jq, one peer, and for the idle load more than 15,000 file descriptors (ulimit -n).
USAGE
}

rounds=3 seconds=5 filters=100000 connections=15000 only=. base_port=18830 build=yes results=
without=' '
declare -A running=() # HOST:PORT,PID,... of the brokers that run already
while (($#)); do
    case $1 in
        --quick) rounds=1 seconds=2 filters=10000 connections=2000 ;;
        --rounds) rounds=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --filters) filters=$2; shift ;;
        --connections) connections=$2; shift ;;
        --only) only=$2; shift ;;
        --peer) running[${2%%=*}]=${2#*=}; shift ;;
        --without) without+="$2 "; shift ;;
        --base-port) base_port=$2; shift ;;
        --no-build) build=no ;;
        --results) results=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

# shellcheck source=benches/lib.sh
source "$(dirname "$0")/lib.sh"
rumqttd=${RUMQTTD:-$(command -v rumqttd || echo "$HOME/.cargo/bin/rumqttd")}
peers=()
[[ $without != *' mosquitto '* && -x $mosquitto ]] && peers+=(mosquitto)
[[ $without != *' rumqttd '* && -x $rumqttd ]] && peers+=(rumqttd)
peers+=("${!running[@]}")
need jq awk pgrep
if ((${#peers[@]} == 0)); then
    echo "compare.sh needs a peer: mosquitto, rumqttd or one given with --peer" >&2
    exit 2
fi
if [[ $build == yes && -n $only ]]; then
    build
fi

results=${results:-$work/results.jsonl}
: >"$results"
broken=0

start_rumqttd() {
    cat >"$work/rumqttd.toml" <<TOML
id = 0
[router]
id = 0
max_connections = 20010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:$port"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 500
dynamic_filters = true
TOML
    "$rumqttd" -c "$work/rumqttd.toml" -q >"$work/broker.log" 2>&1 &
    started=($!) servers=($!)
    await "127.0.0.1:$port" "127.0.0.1:$port"
}

# start SYSTEM LOAD
start() {
    local proxies=1
    case $1 in
        # Without this option mosquitto holds lone small messages back for up to 40 ms.
        mosquitto) if [[ $2 == lone-* ]]; then start_mosquitto 'set_tcp_nodelay true'; else start_mosquitto; fi ;;
        rumqttd) start_rumqttd ;;
        causeway) [[ $2 == cross-* ]] && proxies=2; start_causeway $proxies ;;
    esac
}

# measure LOAD SYSTEM BENCH-ARGUMENTS...: runs one load on one broker and keeps the result.
measure() {
    local load=$1 system=$2 address pid json status=0
    shift 2
    if [[ -n ${running[$system]:-} ]]; then
        IFS=, read -r address pid <<<"${running[$system]}"
        IFS=, read -ra servers <<<"$pid"
    else
        next_port
        start "$system" "$load"
        address=127.0.0.1:$port
    fi
    if [[ $load == cross-* ]]; then
        set -- "$@" --publish-to "$address" --subscribe-to "127.0.0.1:$((port + 1))"
    fi
    # shellcheck disable=SC2046
    json=$("$causeway" bench "$@" --host "${address%:*}" --port "${address##*:}" $(pids) --json 2>"$work/bench.log") ||
        status=$?
    stop
    if ((status != 0)); then
        [[ $system == causeway ]] && broken=$((broken + 1))
        echo "FAILED: $load on $system (exit code $status): $(tail -n 1 "$work/bench.log")" >&2
    fi
    [[ -n $json ]] || return 0
    jq -c --arg load "$load" --arg system "$system" --argjson ok "$((status == 0))" \
        '{load: $load, system: $system, ok: ($ok == 1), result: .}' <<<"$json" >>"$results"
    echo "  $load $system: $(jq -c '[.broker_cpu_us_per_delivered, .broker_kib_per_connection, .latency_us.p50]
        | map(select(. != null))' <<<"$json")" >&2
}

# load NAME BENCH-ARGUMENTS...: the same on all brokers.
load() {
    local name=$1 systems at
    shift
    if [[ -z $only ]]; then
        echo "$name"
        return
    fi
    [[ $name =~ $only ]] || return 0
    systems=("${peers[@]}" causeway)
    for ((at = 0; at < ${#systems[@]}; at++)); do
        measure "$name" "${systems[(at + round) % ${#systems[@]}]}" "$@"
    done
}

# cross NAME BENCH-ARGUMENTS...: with the publisher on one proxy and the subscriber on the other.
cross() {
    local name=$1
    shift
    if [[ -z $only ]]; then
        echo "$name"
    elif [[ $name =~ $only ]]; then
        measure "$name" causeway "$@"
    fi
}

ulimit -n "$(ulimit -Hn)"
if [[ $(ulimit -n) != unlimited ]] && (($(ulimit -n) < connections + 100)); then
    connections=$(($(ulimit -n) - 100))
    echo "file descriptors allow $connections idle connections only" >&2
fi

timing=(--duration "$seconds" --warmup 1)
all_loads() {
    local payload qos
    for payload in 16 256 8192; do
        for qos in 0 1 2; do
            load "pairs-q$qos-$payload" pairs --pairs 10 --qos $qos --payload $payload "${timing[@]}"
        done
    done
    load pairs-v5 pairs --pairs 10 --mqtt 5 "${timing[@]}"
    for qos in 0 1; do
        load "fanout-100-q$qos" fanout --subscribers 100 --qos $qos "${timing[@]}"
        load "fanout-1000-q$qos" fanout --subscribers 1000 --qos $qos "${timing[@]}"
        load "fanin-q$qos" fanin --publishers 100 --qos $qos "${timing[@]}"
    done
    load shared-q1 shared --subscribers 10 --qos 1 "${timing[@]}"
    load few-in-flight pairs --pairs 10 --qos 1 --inflight 10 "${timing[@]}"
    load lone-5000 pairs --pairs 10 --rate 5000 "${timing[@]}"
    load lone-20000 pairs --pairs 10 --rate 20000 "${timing[@]}"
    load filters pairs --pairs 10 --filters "$filters" "${timing[@]}"
    for qos in 1 2; do
        load "kept-q$qos" pairs --pairs 10 --persistent --qos $qos "${timing[@]}"
    done
    load offline queue --sessions 1000 --messages 200
    load deep queue --sessions 1 --messages 90000
    load idle idle --connections "$connections"
    load connect connect --count 20000
    for qos in 0 1 2; do
        cross "cross-q$qos" pairs --pairs 10 --qos $qos "${timing[@]}"
    done
    for qos in 1 2; do
        cross "cross-kept-q$qos" pairs --pairs 10 --persistent --qos $qos "${timing[@]}"
    done
}
if [[ -z $only ]]; then
    all_loads
    exit 0
fi
for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds" >&2
    all_loads
done

# median LOAD SYSTEM FIGURE, of the runs that passed their checks
median() {
    jq -r --arg load "$1" --arg system "$2" --arg figure "$3" \
        'select(.load == $load and .system == $system and .ok) | .result | getpath($figure | split("/")) // empty' \
        "$results" | sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'
}

cell() { awk -v value="$1" 'BEGIN { if (value == "") print "-"; else printf (value < 1000 ? "%.2f\n" : "%.0f\n"), value }'; }
ratio() { awk -v l="${1:-0}" -v r="${2:-0}" 'BEGIN { if (l > 0 && r > 0) printf "%.2f\n", r / l; else print "-" }'; }

# row TITLE LOAD FIGURE AIM: one figure of all brokers.
row() {
    local own line peer value
    own=$(median "$2" causeway "$3")
    line= values=
    for peer in "${peers[@]}"; do
        value=$(median "$2" "$peer" "$3")
        line+=" $(cell "$value") |" values+=" $(ratio "$value" "$own") |"
    done
    [[ -n $own ]] || return 0
    echo "| $1 |$line $(cell "$own") |$values $4 |"
}

# beside TITLE LOAD SYSTEM OTHER-LOAD OTHER-SYSTEM AIM: what one load costs beside another one.
beside() {
    local without with
    without=$(median "$2" "$3" broker_cpu_us_per_delivered)
    with=$(median "$4" "$5" broker_cpu_us_per_delivered)
    [[ -n $without && -n $with ]] || return 0
    echo "| $1 | $(cell "$without") | $(cell "$with") | $(ratio "$without" "$with") | $6 |"
}

cpu=broker_cpu_us_per_delivered
versions=
for peer in "${peers[@]}"; do
    case $peer in
        mosquitto) versions+=", $("$mosquitto" -h 2>&1 | head -n 1 || true)" ;;
        rumqttd) versions+=", $("$rumqttd" --version 2>&1 | head -n 1 || true)" ;;
    esac
done
echo
echo "$(date -u +%F), $(nproc) x $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)," \
    "Linux $(uname -r)$versions; median of $rounds, $seconds s per load. Microseconds are processor time of" \
    "all processes of the broker per delivered message, unless it says otherwise."
echo
header='| one proxy and an intermediate |' rule='|---|'
for peer in "${peers[@]}" causeway; do header+=" $peer |" rule+='---|'; done
for peer in "${peers[@]}"; do header+=" : $peer |" rule+='---|'; done
echo "$header aim |"
echo "$rule---|"
for payload in 16 256; do
    row "pairs, QoS 0, $payload B: us" "pairs-q0-$payload" $cpu 0.25
    row "pairs, QoS 1, $payload B: us" "pairs-q1-$payload" $cpu 0.20
    row "pairs, QoS 2, $payload B: us" "pairs-q2-$payload" $cpu 0.15
done
for qos in 0 1 2; do
    row "pairs, QoS $qos, 8 KiB: us" "pairs-q$qos-8192" $cpu 0.8
done
row 'pairs, QoS 0, 16 B, MQTT 5: us' pairs-v5 $cpu -
for qos in 0 1; do
    row "fan-out 1:100, QoS $qos, 16 B: us" "fanout-100-q$qos" $cpu 0.10
    row "fan-out 1:1000, QoS $qos, 16 B: us" "fanout-1000-q$qos" $cpu 0.10
    row "fan-in 100:1, QoS $qos, 16 B: us" "fanin-q$qos" $cpu 0.4
done
row 'shared group of 10, QoS 1, 16 B: us' shared-q1 $cpu 0.3
row 'pairs, QoS 1, 10 in flight: us' few-in-flight $cpu -
for rate in 5000 20000; do
    row "$rate messages per second over 10 pairs: us" "lone-$rate" $cpu 1.0
    row "the same: latency p50, us" "lone-$rate" latency_us/p50 1.0
    row "the same: latency p99, us" "lone-$rate" latency_us/p99 -
    row "the same: latency p99.9, us" "lone-$rate" latency_us/p99.9 -
done
for qos in 1 2; do
    row "pairs with persistent sessions, QoS $qos, 16 B: us" "kept-q$qos" $cpu -
done
row '1,000 clients away, 200 messages of 256 B for each: us to queue one' offline queue/broker_cpu_us_each -
row 'the same: us to give one out' offline drain/broker_cpu_us_each -
row 'one client away, 90,000 messages of 256 B: us to queue one' deep queue/broker_cpu_us_each -
row 'the same: us to give one out' deep drain/broker_cpu_us_each -
row "$connections idle connections: KiB each" idle broker_kib_per_connection -
row 'connections per second' connect connects_per_sec 'at least 1.0'
echo
echo '| what it adds | without | with | ratio | aim |'
echo '|---|---|---|---|---|'
beside "$filters wildcard filters" pairs-q0-16 causeway filters causeway 1.1
for peer in "${peers[@]}"; do
    beside "the same in $peer" pairs-q0-16 "$peer" filters "$peer" -
done
for qos in 0 1 2; do
    beside "QoS $qos across two proxies and an intermediate" "pairs-q$qos-16" causeway "cross-q$qos" causeway -
    for peer in "${peers[@]}"; do
        beside "the same, beside one single $peer" "pairs-q$qos-16" "$peer" "cross-q$qos" causeway 0.7
    done
done
for qos in 1 2; do
    beside "QoS $qos across proxies, from clean to persistent sessions" \
        "cross-q$qos" causeway "cross-kept-q$qos" causeway 2
done
echo
jq -r 'select(.result.own_cpu_us_per_delivered != null and .result.settings.rate_per_sec == null)
       | .result.own_cpu_us_per_delivered / .result.broker_cpu_us_per_delivered' "$results" |
    sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "The load tool itself used %.2f (median) to %.2f (most) of the processor time of the broker.\n", v[int((NR + 1) / 2)], v[NR] }'
jq -r 'select(.ok | not) | "\(.load) on \(.system): a run failed its checks, and does not count."' "$results" | sort | uniq -c
if ((broken)); then
    echo "**$broken runs of causeway FAILED their checks or could not be made; see above.**"
    exit 1
fi
echo 'Every run of causeway passed its checks: nothing lost, nothing twice, nothing out of order.'
