-- Which items of the published run share a bucket.
CREATE OR REPLACE TEMPORARY VIEW published_lsh_buckets AS
SELECT
    run_id,
    band,
    bucket,
    node_id,
    external_id
FROM lsh_buckets
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
