-- Keys are hashes that are made with the secret. Accounts and owners are numbers that belong to names of the configuration.
CREATE TABLE IF NOT EXISTS origins (
    key         BLOB    PRIMARY KEY,
    account     INTEGER NOT NULL,
    owner       INTEGER NOT NULL,
    owner_group INTEGER NOT NULL,
    -- Seconds since 1970-01-01 UTC.
    used_s      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is forgotten, and what was not used for the longest time.
CREATE INDEX IF NOT EXISTS origins_by_use ON origins (used_s);

CREATE TABLE IF NOT EXISTS secret (
    number INTEGER PRIMARY KEY CHECK (number = 1),
    bytes  BLOB    NOT NULL
) STRICT;

PRAGMA user_version = 1;
