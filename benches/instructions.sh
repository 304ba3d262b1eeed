#!/usr/bin/env bash
# Counts the instructions and allocations of a proxy for each delivered message, in user space, under valgrind.
#
# Times drift with the machine; this hardly does: lone messages cost the same to a few instructions in each run. At full
# speed it depends on how many messages share a wake-up, which under valgrind are more than outside. One load is
# run with two numbers of messages, and the difference is divided by the difference: what a start costs is not in it.
set -euo pipefail

if (($#)); then
    echo "Usage: benches/instructions.sh   (needs valgrind; CAUSEWAY = binary to count [target/release/causeway])"
    [[ $1 == -h || $1 == --help ]] && exit 0 || exit 2
fi
base_port=18930
# shellcheck source=benches/lib.sh
source "$(dirname "$0")/lib.sh"
need valgrind awk
[[ -x $causeway ]] || build

# run MESSAGES BENCH-ARGUMENTS...: sets `counted` to the instructions and allocations of the proxy.
run() {
    local messages=$1 grpc mqtt
    shift
    next_port
    grpc=$port mqtt=$((port + 1))
    rm -rf "$work/data" "$work/out"
    "$causeway" intermediate-server --listen "127.0.0.1:$grpc" --admin-listen 127.0.0.1:0 --start-grace 0s \
        --data-directory "$work/data" >"$work/intermediate.log" 2>&1 &
    started=($!)
    valgrind --tool=callgrind --callgrind-out-file="$work/out" --fair-sched=yes "$causeway" proxy-server --workers 1 \
        --mqtt-listen "127.0.0.1:$mqtt" --admin-listen 127.0.0.1:0 \
        --cluster-intermediates "127.0.0.1:$grpc" --cluster-lease 60s >"$work/proxy.log" 2>&1 &
    started+=($!)
    for _ in {1..300}; do
        is_free "$mqtt" || break
        sleep 0.1
    done
    "$causeway" bench pairs --pairs 1 --port "$mqtt" --warmup 0 --drain 20 --messages "$messages" "$@" \
        >"$work/bench.log" || { cat "$work/bench.log" >&2; exit 1; }
    stop
    # A function is named in full once, with a number, and by this number afterwards.
    counted=$(awk '/^summary:|^totals:/ { total = $2 }
         /^c?fn=/ {
             open = index($0, "("); close_ = index($0, ")"); id = substr($0, open, close_ - open + 1)
             if (length($0) > close_) name[id] = substr($0, close_ + 2)
             callee = name[id]
         }
         /^calls=/ { if (callee ~ /^mi_(malloc|zalloc|realloc|calloc)/) { split($1, n, "="); calls += n[2] } }
         END { print total, calls }' "$work/out")
}

# figure TITLE FEW MANY BENCH-ARGUMENTS...
figure() {
    local title=$1 few=$2 many=$3 less more
    shift 3
    run "$few" "$@"
    less=$counted
    run "$many" "$@"
    more=$counted
    awk -v title="$title" -v messages=$((many - few)) -v less="$less" -v more="$more" 'BEGIN {
        split(less, l, " "); split(more, m, " ")
        printf "| %s | %.0f | %.1f |\n", title, (m[1] - l[1]) / messages, (m[2] - l[2]) / messages
    }'
}

echo '| proxy, user space, for each delivered message of 16 B | instructions | allocations |'
echo '|---|---|---|'
figure 'lone, QoS 0' 500 1500 --rate 200
figure 'lone, QoS 1' 500 1500 --rate 200 --qos 1
for qos in 0 1 2; do
    figure "full speed, QoS $qos" 20000 60000 --qos $qos
done
