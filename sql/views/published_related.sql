-- Nearest items of every item of the published run.
CREATE OR REPLACE TEMPORARY VIEW published_related AS
SELECT
    run_id,
    item_id,
    rank,
    related_id,
    score
FROM related
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
