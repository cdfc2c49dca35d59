-- Items whose LSH buckets weigh enough beside those of one item (weak AND), scored by code and by embedding.
-- A bucket that holds n of N items weighs ln(N / n). Of each band the item's own bucket counts, and those
-- that differ from it in one of the bits that are least sure: their coordinates are nearest to 0.
--
-- Parameters: item_id  external id of the item, e.g. '1029743'
--             theta    smallest summed weight of a candidate's buckets, e.g. 8.0
--             probes   buckets beside its own that are looked into per band, e.g. 2
-- Columns:    candidate_id, name, matching_bands, weight (of its buckets), hamming (differing bits of the
--             widest code), score (inner product of the embeddings); best score first, ties by node_id
WITH own AS (
    SELECT
        node_id,
        band,
        bucket
    FROM published_lsh_buckets
    WHERE external_id = :item_id
),

flips AS (
    SELECT
        own.band,
        own.bucket ^ shiftleft(1L, code.place) AS bucket,
        row_number() OVER (
            PARTITION BY own.band
            ORDER BY abs(vector_inner_product(code.direction, item.embedding)) ASC, code.place ASC
        ) AS turn
    FROM own
    INNER JOIN published_embeddings AS item
        ON own.node_id = item.node_id
    INNER JOIN published_code_directions AS code
        ON own.band = code.band
),

probed AS (
    SELECT
        band,
        bucket
    FROM own
    UNION ALL
    SELECT
        band,
        bucket
    FROM flips
    WHERE turn <= :probes
),

found AS (
    SELECT
        other.node_id,
        count(*) OVER (PARTITION BY other.band, other.bucket) AS population
    FROM probed
    INNER JOIN published_lsh_buckets AS other
        ON probed.band = other.band AND probed.bucket = other.bucket
),

-- Decimals, so that no sum depends on the order of its bands.
weighed AS (
    SELECT
        node_id,
        cast(
            ln((SELECT count(*) FROM published_lsh_buckets WHERE band = 0) / population) AS DECIMAL(12, 6)
        ) AS weight
    FROM found
),

matches AS (
    SELECT
        node_id,
        count(*) AS matching_bands,
        sum(weight) AS weight
    FROM weighed
    GROUP BY node_id
    HAVING sum(weight) >= :theta
),

asked AS (
    SELECT
        item.node_id,
        item.embedding,
        coded.code_bits,
        coded.code
    FROM published_embeddings AS item
    INNER JOIN published_codes AS coded
        ON item.node_id = coded.node_id
    WHERE
        item.external_id = :item_id
        AND item.node_type = 'item'
        AND coded.code_bits = (SELECT max(code_bits) FROM published_codes)
),

scored AS (
    SELECT
        matches.node_id,
        candidate.external_id,
        matches.matching_bands,
        matches.weight,
        hamming(asked.code, coded.code) AS hamming,
        vector_inner_product(asked.embedding, candidate.embedding) AS score
    FROM matches
    INNER JOIN published_embeddings AS candidate
        ON matches.node_id = candidate.node_id
    INNER JOIN published_codes AS coded
        ON matches.node_id = coded.node_id
    INNER JOIN asked
        ON coded.code_bits = asked.code_bits
    WHERE matches.node_id != asked.node_id
)

SELECT
    scored.external_id AS candidate_id,
    node.name,
    scored.matching_bands,
    cast(scored.weight AS DOUBLE) AS weight,
    scored.hamming,
    scored.score
FROM scored
INNER JOIN published_nodes AS node
    ON scored.node_id = node.node_id
ORDER BY scored.score DESC, scored.node_id ASC;
