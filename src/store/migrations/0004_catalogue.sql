-- What can be asked for: one row per series that lies here, received or made, read from its first object when a query comes.
CREATE TABLE catalogue (
    study_uid        TEXT NOT NULL,
    series_uid       TEXT NOT NULL,
    patient_id       TEXT NOT NULL,
    accession_number TEXT NOT NULL,
    study_date       TEXT NOT NULL,                         -- YYYYMMDD, or whatever the sender wrote
    modality         TEXT NOT NULL,
    attributes       BLOB NOT NULL,                         -- Explicit VR Little Endian, text in the bytes of its sender
    PRIMARY KEY (study_uid, series_uid)
) STRICT;
CREATE INDEX catalogue_by_patient ON catalogue (patient_id);
CREATE INDEX catalogue_by_accession ON catalogue (accession_number);
CREATE INDEX catalogue_by_date ON catalogue (study_date);

-- NULL until the catalogue has read it.
ALTER TABLE results ADD COLUMN series_uid TEXT;
CREATE INDEX results_by_series ON results (series_uid);
CREATE INDEX instances_by_sop ON instances (sop_instance_uid);

-- Every object that can be asked for: what was received, and results that no later result of the same series replaces.
CREATE VIEW holdings AS
SELECT study_uid, series_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, NULL AS path
  FROM instances
 UNION ALL
SELECT j.study_uid, r.series_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid, r.path
  FROM results r JOIN jobs j ON j.id = r.job
 WHERE r.series_uid IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM jobs later JOIN results newer ON newer.job = later.id
                    WHERE later.study_uid = j.study_uid AND later.series_uid = j.series_uid AND later.revision > j.revision
                      AND newer.kind NOT LIKE 'notice-%');
