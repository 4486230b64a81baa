-- A random text of the last change. Two servers may count the same number of changes and have other ones: after a failover that
-- lost the last change, the next change has its number and another token.
ALTER TABLE revisions ADD COLUMN token TEXT NOT NULL DEFAULT '';
