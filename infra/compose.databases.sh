#!/bin/sh
# Makes two users and their databases, Prefect's and the store's. PostgreSQL's image runs it once, on an empty volume.
set -eu

psql --username postgres --set ON_ERROR_STOP=1 \
  --set prefect="$PREFECT_DB_PASSWORD" --set flagrelease="$FLAGRELEASE_DB_PASSWORD" <<'SQL'
CREATE USER prefect PASSWORD :'prefect';
CREATE DATABASE prefect OWNER prefect ENCODING 'UTF8' TEMPLATE template0;
CREATE USER flagrelease PASSWORD :'flagrelease';
CREATE DATABASE flagrelease OWNER flagrelease ENCODING 'UTF8' TEMPLATE template0;
-- Each user to its own database only.
REVOKE CONNECT ON DATABASE prefect, flagrelease FROM PUBLIC;
SQL
