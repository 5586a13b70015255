#!/bin/sh
# MLflow's server for several people, until Ctrl-C: its runs in a PostgreSQL of its own, the runs' files beside it.
#
#     sh workflow/mlflow_server.sh FOLDER [options of `mlflow server`, such as --port 5001 --host 0.0.0.0]
#
# Needs Debian's package postgresql and `pip install psycopg2-binary`. What lies in FOLDER is kept and used again.
set -eu
[ $# -gt 0 ] || { echo "give the folder that holds the runs: sh workflow/mlflow_server.sh FOLDER" >&2; exit 2; }
folder=$(realpath -m "$1")
shift
programs=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$programs" ] || { echo "PostgreSQL is missing: sudo apt-get install postgresql" >&2; exit 1; }
# PostgreSQL refuses to be run by root.
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; else as=; fi
mkdir -p "$folder/files" "$folder/runs"
socket=$(mktemp -d) # a path may not be longer than a socket's name; others cannot reach the database
if [ -n "$as" ]; then chown postgres "$folder" "$folder/runs" "$socket"; fi
cd "$folder"
[ -e runs/PG_VERSION ] || $as "$programs/initdb" -D "$folder/runs" -A trust -U mlflow -E UTF8 >runs.log
$as "$programs/pg_ctl" -D "$folder/runs" -w -s -l "$folder/runs/log" \
    -o "-k $socket -c listen_addresses= -c unix_socket_permissions=0700" start
stop() {
    kill "$server" 2>/dev/null && wait "$server" || true
    $as "$programs/pg_ctl" -D "$folder/runs" -m fast -s stop
    rm -rf "$socket"
}
server=
trap stop EXIT
trap 'exit 0' INT TERM
$as "$programs/psql" -h "$socket" -U mlflow -d postgres -tAc "SELECT 1 FROM pg_database WHERE datname = 'mlflow'" | grep -q 1 \
    || $as "$programs/createdb" -h "$socket" -U mlflow mlflow
mlflow server --backend-store-uri "postgresql://mlflow@/mlflow?host=$socket" --artifacts-destination "$folder/files" "$@" &
server=$!
wait "$server"
