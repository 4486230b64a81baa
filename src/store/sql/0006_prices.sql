-- What providers bill beside text tokens, and what rows need so that a later change of prices or rates does not change them.
ALTER TABLE ledger ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN cache_write_1h_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN input_audio_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN input_image_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN output_audio_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN output_image_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN image_tool_input_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN image_tool_output_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN web_searches INTEGER;
-- Milliseconds of audio that are billed by time.
ALTER TABLE ledger ADD COLUMN audio_ms INTEGER;
-- As the answer names it; none = standard.
ALTER TABLE ledger ADD COLUMN service_tier TEXT;
-- What the provider says that the call cost, in nano-units of the provider's currency.
ALTER TABLE ledger ADD COLUMN told_cost INTEGER;
-- Parts that were told and have no price, with commas between them.
ALTER TABLE ledger ADD COLUMN unpriced_parts TEXT;
-- Prices of parts beside the five columns, as cache_write=3.75,per_web_search=0.01.
ALTER TABLE ledger ADD COLUMN price_more TEXT;
-- The whole tariff of a row that is settled later: see `domain::price::Tariff`.
ALTER TABLE ledger ADD COLUMN price_terms TEXT;
-- Nano-yuan for a dollar when the price was looked up, and the cost (where the row is open: what was reserved) in the other
-- currency. Rows of before have none: for them the rate of the configuration counts.
ALTER TABLE ledger ADD COLUMN cny_per_usd INTEGER;
ALTER TABLE ledger ADD COLUMN cost_exchanged INTEGER;

ALTER TABLE shown ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE shown ADD COLUMN cache_write_1h_tokens INTEGER;
ALTER TABLE shown ADD COLUMN input_audio_tokens INTEGER;
ALTER TABLE shown ADD COLUMN input_image_tokens INTEGER;
ALTER TABLE shown ADD COLUMN output_audio_tokens INTEGER;
ALTER TABLE shown ADD COLUMN output_image_tokens INTEGER;
ALTER TABLE shown ADD COLUMN image_tool_input_tokens INTEGER;
ALTER TABLE shown ADD COLUMN image_tool_output_tokens INTEGER;
ALTER TABLE shown ADD COLUMN web_searches INTEGER;
ALTER TABLE shown ADD COLUMN audio_ms INTEGER;
ALTER TABLE shown ADD COLUMN service_tier TEXT;
ALTER TABLE shown ADD COLUMN told_cost INTEGER;

-- What a key or a group has spent is summed up from the index alone.
DROP INDEX ledger_key_cost;
DROP INDEX ledger_group_cost;
CREATE INDEX ledger_key_spent ON ledger (key_name, time_ms, origin, currency, cost, cost_exchanged) WHERE cost IS NOT NULL;
CREATE INDEX ledger_group_spent ON ledger (group_name, time_ms, origin, currency, cost, cost_exchanged)
    WHERE cost IS NOT NULL AND group_name IS NOT NULL;
