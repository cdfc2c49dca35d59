-- Items and contexts of the published run.
CREATE OR REPLACE TEMPORARY VIEW published_nodes AS
SELECT
    run_id,
    node_type,
    node_id,
    external_id,
    name,
    node_key,
    degree
FROM nodes
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
