-- Items nearest to the items a user touched lately (PinSage's home feed). Candidates come from the
-- recent items' LSH buckets, so the catalogue is never scanned against the query.
--
-- Parameters: recent_items  external ids separated by commas, e.g. '1029743,995242'
--             min_bands     bands in which a candidate must share a recent item's bucket, e.g. 2
--             num_results   rows wanted, e.g. 20
-- Columns:    rank, item_id, name, score (inner product with the nearest recent item),
--             because_of, because_of_name (that recent item)
WITH recent AS (
    SELECT
        node_id,
        external_id,
        embedding
    FROM published_embeddings
    WHERE node_type = 'item' AND array_contains(split(trim(:recent_items), ' *, *'), external_id)
),

candidates AS (
    SELECT
        own.node_id AS recent_node,
        other.node_id
    FROM published_lsh_buckets AS own
    INNER JOIN published_lsh_buckets AS other
        ON own.band = other.band AND own.bucket = other.bucket
    LEFT ANTI JOIN recent
        ON other.node_id = recent.node_id
    WHERE array_contains(split(trim(:recent_items), ' *, *'), own.external_id)
    GROUP BY own.node_id, other.node_id
    HAVING count(*) >= :min_bands
),

scored AS (
    SELECT
        candidates.node_id,
        -- The best recent item, and of equals the one with the smallest node_id.
        max(
            named_struct(
                'score', vector_inner_product(item.embedding, recent.embedding),
                'preference', -recent.node_id,
                'because_of', recent.external_id
            )
        ) AS best
    FROM candidates
    INNER JOIN recent
        ON candidates.recent_node = recent.node_id
    INNER JOIN published_embeddings AS item
        ON candidates.node_id = item.node_id
    GROUP BY candidates.node_id
),

ranked AS (
    SELECT
        node_id,
        best,
        row_number() OVER (ORDER BY best.score DESC, node_id ASC) AS rank
    FROM scored
)

SELECT
    ranked.rank,
    node.external_id AS item_id,
    node.name,
    ranked.best.score,
    ranked.best.because_of,
    reason.name AS because_of_name
FROM ranked
INNER JOIN published_nodes AS node
    ON ranked.node_id = node.node_id
INNER JOIN published_nodes AS reason
    ON ranked.best.because_of = reason.external_id AND reason.node_type = 'item'
WHERE ranked.rank <= :num_results
ORDER BY ranked.rank;
