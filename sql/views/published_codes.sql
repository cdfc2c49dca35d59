-- Sign codes of the published run, one row per node and width.
CREATE OR REPLACE TEMPORARY VIEW published_codes AS
SELECT
    run_id,
    code_bits,
    node_type,
    node_id,
    external_id,
    code,
    scale,
    prior_code
FROM codes
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
