-- One row a request that went up. Names and numbers only.
CREATE TABLE ledger (
    id TEXT PRIMARY KEY,
    -- Milliseconds since 1970-01-01 UTC.
    time_ms INTEGER NOT NULL,
    -- open, exact, partial, unknown, interrupted
    state TEXT NOT NULL,
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
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    first_byte_ms INTEGER,
    took_ms INTEGER NOT NULL,
    response_id TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_time ON ledger (time_ms);
CREATE INDEX ledger_open ON ledger (id) WHERE state = 'open';
