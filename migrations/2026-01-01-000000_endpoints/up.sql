-- Times are milliseconds since 1970-01-01T00:00Z. Lists are JSON arrays of text. `kind` is what the operator says, NULL
-- if probes find it out; `detected_kind`, `models`, `latency_ms` and `last_seen` are what probes found.
CREATE TABLE endpoints (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    base_url TEXT NOT NULL,
    kind TEXT,
    source TEXT NOT NULL,
    max_concurrency INTEGER NOT NULL,
    capability_score INTEGER,
    api_key TEXT,
    allowed_models TEXT NOT NULL,
    registered_at BIGINT NOT NULL,
    detected_kind TEXT,
    models TEXT NOT NULL DEFAULT '[]',
    latency_ms DOUBLE PRECISION,
    last_seen BIGINT,
    total_requests BIGINT NOT NULL DEFAULT 0,
    successful_requests BIGINT NOT NULL DEFAULT 0,
    failed_requests BIGINT NOT NULL DEFAULT 0
);
