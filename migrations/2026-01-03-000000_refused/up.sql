-- Refused requests by the minute in which they were refused, in minutes since 1970-01-01T00:00Z, and by the code of the
-- answer. All of them count here; at most one of each second and code is a row of request_history, too.
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
