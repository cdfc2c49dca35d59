-- Items that share LSH buckets with one item (weak AND), scored by code and by embedding.
--
-- Parameters: item_id    external id of the item, e.g. '1029743'
--             min_bands  bands in which a candidate must share the item's bucket, e.g. 2
-- Columns:    candidate_id, name, matching_bands, hamming (differing bits of the widest code),
--             score (inner product of the embeddings); best score first, ties by node_id
WITH matches AS (
    SELECT
        own.node_id AS own_node,
        other.node_id,
        count(*) AS matching_bands
    FROM published_lsh_buckets AS own
    INNER JOIN published_lsh_buckets AS other
        ON own.band = other.band AND own.bucket = other.bucket
    WHERE
        own.external_id = :item_id
        AND other.external_id != :item_id
    GROUP BY own.node_id, other.node_id
    HAVING count(*) >= :min_bands
),

scored AS (
    SELECT
        matches.node_id,
        candidate.external_id,
        matches.matching_bands,
        aggregate(
            zip_with(own_coded.code, coded.code, (a, b) -> bit_count(a ^ b)),
            0,
            (differing, bits) -> differing + bits
        ) AS hamming,
        vector_inner_product(own.embedding, candidate.embedding) AS score
    FROM matches
    INNER JOIN published_embeddings AS own
        ON matches.own_node = own.node_id
    INNER JOIN published_embeddings AS candidate
        ON matches.node_id = candidate.node_id
    INNER JOIN published_codes AS own_coded
        ON matches.own_node = own_coded.node_id
    INNER JOIN published_codes AS coded
        ON matches.node_id = coded.node_id AND own_coded.code_bits = coded.code_bits
    WHERE coded.code_bits = (SELECT max(code_bits) FROM published_codes)
)

SELECT
    scored.external_id AS candidate_id,
    node.name,
    scored.matching_bands,
    scored.hamming,
    scored.score
FROM scored
INNER JOIN published_nodes AS node
    ON scored.node_id = node.node_id
ORDER BY scored.score DESC, scored.node_id ASC;
