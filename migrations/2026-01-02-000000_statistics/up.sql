-- Times are milliseconds since 1970-01-01T00:00Z. Dates are the server's local days as YYYY-MM-DD. `endpoint_id` is no
-- foreign key, so that statistics stay when an endpoint is removed.

-- One row for each lease, and one for each request that got no lease. `endpoint_id` is NULL for a request without a
-- lease.
CREATE TABLE request_history (
    id INTEGER PRIMARY KEY NOT NULL,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    api_kind TEXT NOT NULL,
    model_id TEXT NOT NULL,
    endpoint_id TEXT,
    client TEXT NOT NULL,
    status TEXT NOT NULL,
    is_final BOOLEAN NOT NULL,
    duration_ms BIGINT,
    first_token_ms BIGINT,
    wait_ms BIGINT NOT NULL,
    input_tokens BIGINT,
    output_tokens BIGINT,
    error TEXT
);

CREATE INDEX request_history_created_at ON request_history (created_at);

-- Leases by the day on which they ended. `measured_requests` counts the leases that have both output tokens and a
-- duration; only these add to `total_duration_ms`.
CREATE TABLE endpoint_daily_stats (
    endpoint_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    date TEXT NOT NULL,
    api_kind TEXT NOT NULL,
    total_requests BIGINT NOT NULL,
    successful_requests BIGINT NOT NULL,
    failed_requests BIGINT NOT NULL,
    total_output_tokens BIGINT NOT NULL,
    total_duration_ms BIGINT NOT NULL,
    measured_requests BIGINT NOT NULL,
    PRIMARY KEY (endpoint_id, model_id, date, api_kind)
);

-- Requests by the day on which they ended. A request counts once, whatever its number of leases.
CREATE TABLE request_daily_stats (
    date TEXT PRIMARY KEY NOT NULL,
    total_requests BIGINT NOT NULL,
    successful_requests BIGINT NOT NULL,
    failed_requests BIGINT NOT NULL
);
