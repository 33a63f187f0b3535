-- Refused requests by the code of the answer and by the minute of the refusal, in minutes since 1970-01-01T00:00Z.
-- Every refused request counts here; request_history has a row for at most one of them per second and code.
CREATE TABLE refused (
    minute BIGINT NOT NULL,
    code TEXT NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (minute, code)
);

INSERT INTO refused (minute, code, requests)
SELECT created_at / 60000, coalesce(error, 'unknown'), count(*)
FROM request_history
WHERE status = 'refused'
GROUP BY created_at / 60000, coalesce(error, 'unknown');
