-- What was asked for, by the name that the SDKs have for it. Rows of before there were several have none: responses.create.
ALTER TABLE ledger ADD COLUMN endpoint TEXT;
