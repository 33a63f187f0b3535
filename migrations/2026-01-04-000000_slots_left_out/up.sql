-- False: the operator left `max_concurrency` out, and the engine's own number of slots is used. True: `max_concurrency`
-- is used.
ALTER TABLE endpoints ADD COLUMN max_concurrency_given BOOLEAN NOT NULL DEFAULT TRUE;
