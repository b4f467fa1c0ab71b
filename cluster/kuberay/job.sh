#!/bin/sh
# What a RayJob runs: the sweep, or the command of `sweep.py` that is given. Code 3 says that no trial of some study came to a
# score; a failed job would start a cluster anew, which would find nothing to do.
python "$(dirname "$0")/../../sweep.py" "$@"
code=$?
[ "$code" = 3 ] || exit "$code"
