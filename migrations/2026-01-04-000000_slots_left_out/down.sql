ALTER TABLE endpoints DROP COLUMN max_concurrency_given;
