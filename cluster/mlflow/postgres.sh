#!/usr/bin/env bash
# PostgreSQL in a folder, from Debian's package and without Docker: `postgres.sh FOLDER start` makes the databases if
# there are none and starts the server, `postgres.sh FOLDER stop` ends it. For one machine and for the tests; where the
# package's own server runs, that needs databases.sql alone (docs/tracking-server.md).
#
# From the environment: LEDGER_PASSWORD, MLFLOW_DATABASE_PASSWORD, PGPORT (5432), BIND_ADDRESS (127.0.0.1).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() { echo "usage: postgres.sh FOLDER start|stop" >&2; exit 2; }
[ $# -eq 2 ] || usage
folder=$(realpath --canonicalize-missing "$1") port=${PGPORT:-5432} address=${BIND_ADDRESS:-127.0.0.1}
unset PGHOST PGUSER PGPASSWORD PGDATABASE PGPASSFILE

bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2> /dev/null | sort -V | tail -n 1 || true)
[ -x "$bin/initdb" ] || { echo "no PostgreSQL in /usr/lib/postgresql; apt install postgresql" >&2; exit 1; }

# PostgreSQL does not run as root, whose folder then belongs to the package's own user.
run() { "$@"; }
if [ "$(id -u)" = 0 ]; then
  run() { (cd / && runuser --user postgres -- "$@"); }
fi

start() {
  : "${LEDGER_PASSWORD:?expected a password for the role sweep}"
  : "${MLFLOW_DATABASE_PASSWORD:?expected a password for the role mlflow}"
  mkdir -p "$folder"
  if [ "$(id -u)" = 0 ]; then chown postgres: "$folder"; fi
  if [ ! -e "$folder/data/PG_VERSION" ]; then
    # The administrator is the user that PostgreSQL runs as: he comes through the folder's socket, by no password.
    run "$bin/initdb" --pgdata "$folder/data" --encoding UTF8 --locale C.UTF-8 \
      --auth-local peer --auth-host scram-sha-256 > /dev/null
  fi
  if [ "$address" != 127.0.0.1 ] && ! grep -q '^host all sweep,mlflow' "$folder/data/pg_hba.conf"; then
    echo 'host all sweep,mlflow samenet scram-sha-256' | run tee -a "$folder/data/pg_hba.conf" > /dev/null
  fi
  run "$bin/pg_ctl" --pgdata "$folder/data" --log "$folder/postgres.log" --wait \
    --options "-p $port -k '$folder' -c listen_addresses=$address" start > /dev/null ||
    { echo "PostgreSQL did not start; see $folder/postgres.log" >&2; exit 1; }
  run "$bin/psql" --host "$folder" --port "$port" --dbname postgres --no-psqlrc --file - \
    < "$here/databases.sql" > /dev/null
}

case "$2" in
  start) start ;;
  stop) run "$bin/pg_ctl" --pgdata "$folder/data" --wait --mode fast stop > /dev/null ;;
  *) usage ;;
esac
