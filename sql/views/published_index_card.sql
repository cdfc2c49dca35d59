-- How the lists of the published run were searched, and what each number of cells would have found.
CREATE OR REPLACE TEMPORARY VIEW published_index_card AS
SELECT
    run_id,
    product,
    gap,
    cells,
    recall,
    recall_error,
    items_scored,
    share_scored,
    chosen
FROM index_card
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
