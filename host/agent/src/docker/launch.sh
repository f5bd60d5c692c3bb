# Runs one program of a kernel between pipes that the agent made.
# $1 = what their names begin with, $2 = 1 when the program has a standard input; then the command.
# Every pipe is opened for reading and writing: while the program lives, none of them breaks, whoever goes away outside.
pipes=$1 input=$2
shift 2
exec 3<>"$pipes.ctl" || exit 126
echo "pid $$" >&3
# Signals are for the program, which starts with all of them as they were; this shell stays to tell of its end.
trap : INT QUIT TERM HUP
if [ "$input" = 1 ]; then exec 0<>"$pipes.in"; else exec 0</dev/null; fi
"$@" 1<>"$pipes.out" 2<>"$pipes.err" 3>&-
code=$?
echo "exit $code" >&3
exit "$code"
