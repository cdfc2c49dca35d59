-- Importance neighborhoods of the published run, one row per node and relation, the table's packed
-- int32 lists as arrays. Nodes are indices within their type.
CREATE OR REPLACE TEMPORARY VIEW published_neighborhoods AS
WITH published AS (
    SELECT
        run_id,
        relation,
        node,
        hex(neighbors) AS neighbor_bytes,
        hex(visits) AS visit_bytes,
        slice(sequence(0, length(visits) DIV 4), 2, length(visits) DIV 4) AS places
    FROM neighborhoods
    WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live')
)

SELECT
    run_id,
    relation,
    node,
    transform(places, i -> cast(conv(concat(
        substring(neighbor_bytes, 8 * i - 1, 2), substring(neighbor_bytes, 8 * i - 3, 2),
        substring(neighbor_bytes, 8 * i - 5, 2), substring(neighbor_bytes, 8 * i - 7, 2)
    ), 16, 10) AS INT)) AS neighbors,
    transform(places, i -> cast(conv(concat(
        substring(visit_bytes, 8 * i - 1, 2), substring(visit_bytes, 8 * i - 3, 2),
        substring(visit_bytes, 8 * i - 5, 2), substring(visit_bytes, 8 * i - 7, 2)
    ), 16, 10) AS INT)) AS visits
FROM published;
