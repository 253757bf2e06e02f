-- What a series was sent for: to be outlined, or to the teaching AE title to be learned from.
ALTER TABLE jobs ADD COLUMN purpose TEXT NOT NULL DEFAULT 'outline' CHECK (purpose IN ('outline', 'teach'));
