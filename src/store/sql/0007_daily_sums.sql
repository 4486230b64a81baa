-- What is kept of rows that are older than `[store] keep_days`: sums by day. Texts that rows do not have are empty here, so that
-- all of them can be in the key; models are cut to 200 characters, as PostgreSQL bounds what an index holds.
CREATE TABLE daily_sums (
    -- When the day began, in milliseconds since 1970-01-01 UTC: a day of `[money] time_zone`.
    day_ms INTEGER NOT NULL,
    -- The data folder that the rows came from.
    origin TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    key_name TEXT NOT NULL,
    group_name TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    state TEXT NOT NULL,
    -- Empty where the model had no price.
    currency TEXT NOT NULL,
    -- 0 where there was no rate.
    cny_per_usd INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    -- Costs in two parts, whole units and nano-units: the sum of a few large ones would not fit.
    cost_units INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    exchanged_units INTEGER NOT NULL,
    exchanged_nano INTEGER NOT NULL,
    PRIMARY KEY (day_ms, origin, endpoint, key_name, group_name, model, upstream, state, currency, cny_per_usd)
) STRICT, WITHOUT ROWID;

CREATE INDEX daily_sums_key ON daily_sums (key_name, day_ms);
CREATE INDEX daily_sums_group ON daily_sums (group_name, day_ms);

-- Of rows that came from a data folder and are older than this, those that are not in the ledger are in the sums: a journal that is
-- read again after a crash does not bring them back.
CREATE TABLE summed_up (
    origin TEXT PRIMARY KEY,
    before_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
