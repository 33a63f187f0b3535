-- False: `max_concurrency` was left out, and the engine's own number of slots counts.
ALTER TABLE endpoints ADD COLUMN max_concurrency_given BOOLEAN NOT NULL DEFAULT TRUE;
