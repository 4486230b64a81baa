-- Keys of clients that were made with `tidegate keys`: never the key itself.
CREATE TABLE client_keys (
    name TEXT PRIMARY KEY,
    -- Its first characters, by which people know it again.
    prefix TEXT NOT NULL,
    sha256 TEXT NOT NULL UNIQUE,
    -- The one before the last rotation, and until when it works: milliseconds since 1970-01-01 UTC.
    previous_sha256 TEXT,
    previous_until_ms INTEGER,
    disabled INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    -- JSON: see `domain::key::KeySettings`.
    settings TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Who changed which key, when, and from what to what, as SHA-256 of all that is kept of it.
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    key_name TEXT NOT NULL,
    before TEXT,
    after TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_key ON audit (key_name, time_ms);

-- Goes up by one with every change: gateways look at nothing else.
CREATE TABLE revisions (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO revisions (name, number) VALUES ('client_keys', 0);
