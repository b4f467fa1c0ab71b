#!/usr/bin/env bash
# The tracking server of a cluster: MLflow before PostgreSQL, with users, and artifacts on S3 that it serves itself, so
# that whoever looks at figures and models needs no key of the bucket. In the foreground until Ctrl-C:
#
#   set -a; . ~/tracking.env; set +a; cluster/mlflow/server.sh
#
# All settings come from the environment, see .env.example: a command line could be read by others on this machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

for name in MLFLOW_DATABASE_PASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY \
  MLFLOW_ARTIFACTS_DESTINATION MLFLOW_SERVER_ALLOWED_HOSTS MLFLOW_SERVER_CORS_ALLOWED_ORIGINS; do
  [ -n "${!name:-}" ] || { echo "$name is empty; expected a value of your own, see $here/.env.example" >&2; exit 1; }
done
for name in MLFLOW_SERVER_ALLOWED_HOSTS MLFLOW_SERVER_CORS_ALLOWED_ORIGINS; do
  [ "${!name}" != '*' ] || { echo "$name is '*', which lets in every site; name your own" >&2; exit 1; }
done

# libpq's own variables: no address with a password in it is made, shown or kept.
export PGHOST=${PGHOST:-127.0.0.1} PGUSER=mlflow PGPASSWORD=$MLFLOW_DATABASE_PASSWORD
unset MLFLOW_DATABASE_PASSWORD LEDGER_PASSWORD POSTGRES_PASSWORD
export MLFLOW_BACKEND_STORE_URI=postgresql:///mlflow
export MLFLOW_AUTH_CONFIG_PATH=$here/basic_auth.ini
export MLFLOW_SERVE_ARTIFACTS=true
export MLFLOW_HOST=${MLFLOW_HOST:-${BIND_ADDRESS:-127.0.0.1}}
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false  # no language models are judged here; a runner takes half a gigabyte
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true

exec mlflow server --app-name basic-auth
