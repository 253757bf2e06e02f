-- What of the results a destination gets: JSON [[key of a result, an alternative to it, ...], ...]; [] is everything, as before.
ALTER TABLE deliveries ADD COLUMN items TEXT NOT NULL DEFAULT '[]';

-- Which SOP classes a destination was seen to take, so that what it refuses is not offered to it for ever.
CREATE TABLE abilities (
    destination   TEXT NOT NULL,
    address       TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    takes         INTEGER NOT NULL,
    seen_at       INTEGER NOT NULL,
    PRIMARY KEY (destination, address, sop_class_uid)
) STRICT;
