-- What a key or a group has spent is summed up from the index alone. Rows without a price are not in it.
DROP INDEX ledger_key;
DROP INDEX ledger_group;
CREATE INDEX ledger_key_cost ON ledger (key_name, time_ms, origin, currency, cost) WHERE cost IS NOT NULL;
CREATE INDEX ledger_group_cost ON ledger (group_name, time_ms, origin, currency, cost)
    WHERE cost IS NOT NULL AND group_name IS NOT NULL;
