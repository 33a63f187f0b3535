DROP TABLE key_daily_stats;
