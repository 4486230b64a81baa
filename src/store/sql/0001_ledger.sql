-- One row a request that went up. Names and numbers only. Written for SQLite; `store::sql::dialect` makes PostgreSQL's of it.
CREATE TABLE ledger (
    id TEXT PRIMARY KEY,
    -- Milliseconds since 1970-01-01 UTC.
    time_ms INTEGER NOT NULL,
    -- open, exact, partial, unknown, interrupted
    state TEXT NOT NULL,
    -- The data folder whose journal it comes from.
    origin TEXT NOT NULL,
    key_name TEXT,
    group_name TEXT,
    -- As asked, and as sent up.
    model TEXT,
    upstream_model TEXT,
    upstream TEXT,
    credential TEXT,
    end_reason TEXT,
    status INTEGER,
    input_tokens INTEGER,
    cached_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    total_tokens INTEGER,
    reserved_tokens INTEGER,
    -- What it is billed with: nano-units per million tokens, and per request.
    currency TEXT,
    price_input INTEGER,
    price_cached INTEGER,
    price_output INTEGER,
    price_reasoning INTEGER,
    price_call INTEGER,
    -- Nano-units of the currency.
    reserved_cost INTEGER,
    cost INTEGER,
    -- 1 where the cost is an estimate.
    estimated INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    first_byte_ms INTEGER,
    took_ms INTEGER NOT NULL,
    response_id TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_time ON ledger (time_ms);
-- What a key or a group has spent.
CREATE INDEX ledger_key ON ledger (key_name, time_ms);
CREATE INDEX ledger_group ON ledger (group_name, time_ms) WHERE group_name IS NOT NULL;
CREATE INDEX ledger_open ON ledger (origin) WHERE state = 'open';
