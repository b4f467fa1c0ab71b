-- The databases of a cluster on one PostgreSQL server: `ledger` for the trials (role sweep), `mlflow` and `mlflow_auth`
-- for the tracking server (role mlflow). Neither role can look into the other's. To be run by an administrator, as
-- often as one likes; psql takes LEDGER_PASSWORD and MLFLOW_DATABASE_PASSWORD from its environment and sets both anew.
\set ON_ERROR_STOP on
\set QUIET on
\getenv ledger_password LEDGER_PASSWORD
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD

SELECT format('CREATE ROLE %I', wanted) FROM unnest(ARRAY['sweep', 'mlflow']) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)
\gexec
ALTER ROLE sweep LOGIN PASSWORD :'ledger_password';
ALTER ROLE mlflow LOGIN PASSWORD :'mlflow_password';

SELECT format('CREATE DATABASE %I OWNER %I', wanted, its_owner)
FROM (VALUES ('ledger', 'sweep'), ('mlflow', 'mlflow'), ('mlflow_auth', 'mlflow')) AS databases (wanted, its_owner)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = wanted)
\gexec
-- Everybody who may log in could otherwise connect.
REVOKE CONNECT, TEMPORARY ON DATABASE ledger, mlflow, mlflow_auth, postgres FROM PUBLIC;
