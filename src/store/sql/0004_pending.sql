-- A response that is made in the background is paid for by the request that made it, and what it used is known once a call by
-- its id shows it.
--
-- 1 while that may still come: rows that are pending, and those of responses that ended without their tokens being told.
ALTER TABLE ledger ADD COLUMN awaits INTEGER NOT NULL DEFAULT 0;

CREATE INDEX ledger_awaits ON ledger (response_id) WHERE awaits = 1;

-- What was shown, whoever of several replicas saw it, and whether the request's row is there already or not. Without counts
-- where the response is over and they were not told.
CREATE TABLE shown (
    response_id TEXT NOT NULL,
    upstream TEXT NOT NULL,
    input_tokens INTEGER,
    cached_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    total_tokens INTEGER,
    PRIMARY KEY (response_id, upstream)
) STRICT, WITHOUT ROWID;
