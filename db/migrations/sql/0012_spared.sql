-- Which grant spared an approval its question: people read it on the approval, and can end it there.
ALTER TABLE approvals ADD COLUMN grant_id uuid REFERENCES approval_grants;
COMMENT ON COLUMN approvals.grant_id IS 'The grant by which it was approved; NULL: people were asked';
