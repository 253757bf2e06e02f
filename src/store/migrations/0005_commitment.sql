-- Storage commitment that peers ask of us, until they have heard the answer.
CREATE TABLE commitments (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    peer            TEXT NOT NULL,                          -- AE title
    transaction_uid TEXT NOT NULL,
    objects         TEXT NOT NULL,                          -- JSON [[SOP class, SOP instance], ...]
    state           TEXT NOT NULL CHECK (state IN ('open', 'reported', 'given up')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_at         INTEGER NOT NULL,
    asked_at        INTEGER NOT NULL,
    last_error      TEXT,
    UNIQUE (peer, transaction_uid)
) STRICT;
CREATE INDEX commitments_due ON commitments (next_at) WHERE state = 'open';

-- Storage commitment that we ask of destinations, one for each delivery; asked when the delivery is acknowledged.
CREATE TABLE pledges (
    transaction_uid TEXT PRIMARY KEY,
    job             INTEGER NOT NULL REFERENCES jobs (id),
    destination     TEXT NOT NULL,
    objects         TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('due', 'committed', 'refused', 'given up')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_at         INTEGER NOT NULL,
    last_error      TEXT,
    UNIQUE (job, destination)
) STRICT;
CREATE INDEX pledges_due ON pledges (next_at) WHERE state = 'due';
