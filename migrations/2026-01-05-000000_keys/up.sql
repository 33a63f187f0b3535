-- Times are milliseconds since 1970-01-01T00:00Z. Lists are JSON arrays of text. `hash` and `old_hash` are SHA-256 in
-- hexadecimal digits; the keys themselves are not kept.
CREATE TABLE keys (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    source TEXT NOT NULL,
    hash TEXT NOT NULL,
    old_hash TEXT,
    old_until BIGINT,
    scopes TEXT NOT NULL,
    models TEXT NOT NULL,
    expires_at BIGINT,
    enabled BOOLEAN NOT NULL,
    requests_per_minute BIGINT,
    tokens_per_minute BIGINT,
    tokens_per_day BIGINT,
    max_concurrency BIGINT,
    max_waiting BIGINT,
    trusts_client_header BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);

-- Secrets of Leaseway itself, in hexadecimal digits. `sessions` signs the cookies of the dashboard.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);
