-- Times are milliseconds since 1970-01-01 UTC. Paths are relative to the storage directory where they lie inside it.

CREATE TABLE instances (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival; a closed job owns the ids up to its upto_instance
    study_uid           TEXT NOT NULL,
    series_uid          TEXT NOT NULL,
    sop_instance_uid    TEXT NOT NULL,
    sop_class_uid       TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    source_ae           TEXT NOT NULL,
    received_at         INTEGER NOT NULL,
    UNIQUE (study_uid, series_uid, sop_instance_uid)
) STRICT;

CREATE TABLE jobs (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    study_uid          TEXT NOT NULL,
    series_uid         TEXT NOT NULL,
    revision           INTEGER NOT NULL,
    patient_id         TEXT NOT NULL,
    protocol           TEXT,
    state              TEXT NOT NULL CHECK (state IN
                           ('receiving', 'waiting', 'queued', 'running', 'sending', 'done', 'refused', 'failed', 'cancelled')),
    priority           INTEGER NOT NULL DEFAULT 0,
    attempts           INTEGER NOT NULL DEFAULT 0,
    supersedes         INTEGER REFERENCES jobs (id),
    supersedes_sop_uid TEXT,
    uid_seed           TEXT NOT NULL,
    content_date       TEXT NOT NULL,
    content_time       TEXT NOT NULL,
    instances          INTEGER NOT NULL DEFAULT 0,
    upto_instance      INTEGER,                             -- set when closed; NULL while the job takes what comes
    reason             TEXT,
    retry_at           INTEGER,
    received_at        INTEGER NOT NULL,
    gathering_since    INTEGER NOT NULL,
    last_instance_at   INTEGER NOT NULL,
    queued_at          INTEGER,
    started_at         INTEGER,
    finished_at        INTEGER,
    provider           TEXT NOT NULL DEFAULT '',
    models             TEXT NOT NULL DEFAULT '[]',          -- JSON [{name, version, sha256}]
    structures_found   TEXT NOT NULL DEFAULT '[]',          -- JSON [name]
    structures_missing TEXT NOT NULL DEFAULT '[]',          -- JSON [[name, reason]]
    report             TEXT NOT NULL DEFAULT '',
    UNIQUE (study_uid, series_uid, revision)
) STRICT;

-- A new instance belongs to one open job at most.
CREATE UNIQUE INDEX one_open_job_per_series ON jobs (study_uid, series_uid) WHERE state IN ('receiving', 'waiting', 'queued');
CREATE INDEX jobs_by_state ON jobs (state, priority DESC, queued_at);

CREATE TABLE job_events (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    job   INTEGER NOT NULL REFERENCES jobs (id),
    at    INTEGER NOT NULL,
    state TEXT NOT NULL,                                    -- after the event
    text  TEXT NOT NULL                                     -- what happened and why, for people
) STRICT;
CREATE INDEX job_events_by_job ON job_events (job, id);

CREATE TABLE results (
    job                 INTEGER NOT NULL REFERENCES jobs (id),
    kind                TEXT NOT NULL,
    sop_class_uid       TEXT NOT NULL,
    sop_instance_uid    TEXT NOT NULL UNIQUE,               -- one UID never stands for two contents
    transfer_syntax_uid TEXT NOT NULL,
    path                TEXT NOT NULL,
    sha256              TEXT NOT NULL,
    PRIMARY KEY (job, kind)
) STRICT;

CREATE TABLE deliveries (
    job             INTEGER NOT NULL REFERENCES jobs (id),
    destination     TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_at         INTEGER NOT NULL,
    last_error      TEXT,
    acknowledged_at INTEGER,
    PRIMARY KEY (job, destination)
) STRICT;
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'pending';

-- Stable for administrators' own SQL; see the manual before changing a column.
CREATE VIEW job_log AS
SELECT id AS job_id,
       state,
       protocol,
       patient_id,
       study_uid,
       series_uid,
       strftime('%Y-%m-%dT%H:%M:%SZ', received_at / 1000, 'unixepoch') AS received_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', started_at / 1000, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', finished_at / 1000, 'unixepoch') AS finished_at,
       instances,
       (SELECT group_concat(value, ', ') FROM json_each(structures_found)) AS structures_found,
       (SELECT group_concat(json_extract(value, '$[0]') || ' (' || json_extract(value, '$[1]') || ')', ', ')
          FROM json_each(structures_missing)) AS structures_missing,
       provider,
       (SELECT group_concat(json_extract(value, '$.name') || ' ' || json_extract(value, '$.version'), ', ')
          FROM json_each(models)) AS model_versions,
       CASE WHEN state IN ('refused', 'failed') THEN reason END AS error,
       attempts
  FROM jobs;
