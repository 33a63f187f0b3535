DROP TABLE request_daily_stats;
DROP TABLE endpoint_daily_stats;
DROP TABLE request_history;
