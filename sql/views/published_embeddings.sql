-- Embeddings of the published run.
CREATE OR REPLACE TEMPORARY VIEW published_embeddings AS
SELECT
    run_id,
    node_type,
    node_id,
    external_id,
    embedding,
    prior
FROM embeddings
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
