# The first process of a kernel's container: takes in what ends, and ends the rest when it is told to.
stop() {
    trap '' TERM INT
    kill -s TERM -- -1 2>/dev/null
    left=15
    while [ "$left" -gt 0 ] && kill -s 0 -- -1 2>/dev/null; do
        sleep 0.1 2>/dev/null || sleep 1
        left=$((left - 1))
    done
    exit 0
}
trap stop TERM INT
while :; do
    sleep 3600 &
    wait $!
done
