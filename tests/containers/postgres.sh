# What the entry point of the image `postgres` does: databases at the first start, over the socket alone.
set -euo pipefail
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
  initdb --pgdata "$data" --username postgres --encoding UTF8 --auth-local trust --auth-host scram-sha-256 \
    --pwfile <(echo "$POSTGRES_PASSWORD")
  pg_ctl --pgdata "$data" --wait -o "-c listen_addresses='' -k /tmp" start
  for script in /docker-entrypoint-initdb.d/*.sql; do
    psql --host /tmp --username postgres --set ON_ERROR_STOP=1 --file "$script"
  done
  pg_ctl --pgdata "$data" --wait stop
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
fi
exec postgres -D "$data" -c listen_addresses='*' -k /tmp
