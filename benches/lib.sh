# Brokers that come and go: what the scripts here share. To be sourced by bash, with `base_port` set.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
causeway=${CAUSEWAY:-$root/target/release/causeway}
mosquitto=${MOSQUITTO:-$(command -v mosquitto || echo /usr/sbin/mosquitto)}

# Ends the script unless all these programs are there.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "$(basename "$0") needs $tool" >&2; exit 2; }
    done
}

build() { (cd "$root" && cargo build --release --locked -p causeway) >&2; }

work=$(mktemp -d)
started=() # every process this script has started and not yet stopped
servers=() # those whose cost counts

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

# Waits until a message gets through from $1 to $2, both HOST:PORT.
await() {
    for _ in {1..200}; do
        if "$causeway" bench pairs --pairs 1 --qos 1 --messages 1 --warmup 0 --drain 0.5 \
            --publish-to "$1" --subscribe-to "$2" >/dev/null 2>&1; then
            return
        fi
        if ((${#started[@]})); then kill -0 "${started[0]}" 2>/dev/null || break; fi
        sleep 0.1
    done
    echo "no message gets from $1 to $2; the broker's output:" >&2
    tail -n 20 "$work/broker.log" >&2
    exit 1
}

# A fresh port for each broker keeps connections of the last one out of the way. The four behind it are free, too.
port=$base_port
next_port() {
    local at taken
    for _ in {1..5}; do
        port=$((base_port + (port - base_port + 5) % 25)) taken=no
        for at in 0 1 2 3 4; do is_free $((port + at)) || taken=yes; done
        [[ $taken == yes ]] || return 0
    done
    echo "all ports from $base_port on are taken; see --base-port" >&2
    exit 1
}
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start_mosquitto [CONFIGURATION-LINE...]
start_mosquitto() {
    printf '%s\n' "listener $port 127.0.0.1" 'allow_anonymous true' 'max_inflight_messages 0' \
        'max_queued_messages 0' 'persistence false' "$@" >"$work/mosquitto.conf"
    chmod -R a+rX "$work"
    "$mosquitto" -c "$work/mosquitto.conf" >"$work/broker.log" 2>&1 &
    started=($!) servers=($!)
    await "127.0.0.1:$port" "127.0.0.1:$port"
}

# start_causeway PROXIES: with an intermediate and its store. All of them count.
start_causeway() {
    "$causeway" up --proxies "$1" --base-port "$port" >"$work/broker.log" 2>&1 &
    started=($!)
    await "127.0.0.1:$port" "127.0.0.1:$((port + $1 - 1))"
    mapfile -t servers < <(pgrep -P "${started[0]}")
}

# The process ids of what counts, as arguments of `causeway bench`.
pids() {
    local pid
    for pid in "${servers[@]}"; do echo "--pid $pid"; done
}
