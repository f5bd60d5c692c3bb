# Starts one program of a kernel: limits first, then a guard, then the program in place of this shell.
# $1 = lifeline (a FIFO that the agent holds open), $2 = most processes (0 = as it is), $3 = niceness; then the command.
ulimit -c 0 2>/dev/null
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)" 2>/dev/null
[ "$2" = 0 ] || ulimit -u "$2" 2>/dev/null
# When the agent dies, however it dies, the lifeline ends and with it everything in this process group.
# It is a grandchild, so that the program never sees a child that it didn't start.
lifeline=$1 niceness=$3
shift 3
( ( trap '' INT QUIT; exec 3<"$lifeline" </dev/null >/dev/null 2>&1; read -r _ <&3; kill -KILL 0 ) & )
unset lifeline
if [ "$niceness" != 0 ] && command -v nice >/dev/null 2>&1; then exec nice -n "$niceness" "$@"; fi
exec "$@"
