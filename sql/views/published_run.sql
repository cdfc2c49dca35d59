-- The publication that readers see: one row, or none before the first one.
CREATE OR REPLACE TEMPORARY VIEW published_run AS
SELECT
    channel,
    seq,
    ds,
    run_id,
    prev_run_id,
    model_version,
    inputs_fingerprint,
    rows,
    sha,
    published_at
FROM publications
WHERE
    channel = 'live'
    AND seq = (SELECT max(seq) FROM publications WHERE channel = 'live');
