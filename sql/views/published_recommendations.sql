-- Items recommended to every context of the published run.
CREATE OR REPLACE TEMPORARY VIEW published_recommendations AS
SELECT
    run_id,
    context_id,
    rank,
    item_id,
    score
FROM recommendations
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
