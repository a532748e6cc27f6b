#!/bin/bash
# Run once, when the volume is empty: a user and a database for MLflow and for Feast's registry each.
set -euo pipefail
for use in mlflow feast; do
  password=${use^^}_PASSWORD
  psql --no-psqlrc --no-password --username "$POSTGRES_USER" --dbname postgres \
    --set ON_ERROR_STOP=1 --set use="$use" --set password="${!password}" <<'SQL'
CREATE USER :"use" PASSWORD :'password';
CREATE DATABASE :"use" OWNER :"use";
REVOKE ALL ON DATABASE :"use" FROM PUBLIC;
SQL
done
