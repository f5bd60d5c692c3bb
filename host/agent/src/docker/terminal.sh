#!/bin/sh
# The shell of a kernel's terminal.
if command -v bash >/dev/null 2>&1; then exec bash; fi
exec sh
