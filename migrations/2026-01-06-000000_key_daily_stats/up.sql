-- Requests of keys by the server's local day on which they ended, as YYYY-MM-DD. `key_id` is no foreign key, so that the
-- use stays when a key is removed. A request counts once, whatever its number of leases.
CREATE TABLE key_daily_stats (
    key_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    date TEXT NOT NULL,
    api_kind TEXT NOT NULL,
    total_requests BIGINT NOT NULL,
    successful_requests BIGINT NOT NULL,
    failed_requests BIGINT NOT NULL,
    refused_requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    PRIMARY KEY (key_id, model_id, date, api_kind)
);
