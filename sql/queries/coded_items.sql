-- Items for one context by their codes: the nearest by Hamming distance, in the order of the float score
-- (HashGNN's hierarchical search). The context's own items are among them.
--
-- Parameters: context_id   external id of the context, e.g. '31198459904'
--             code_bits    width of the codes, e.g. 128
--             depth        nearest codes whose float score is computed, e.g. 500
--             num_results  rows wanted, e.g. 20
-- Columns:    rank, item_id, name, differing (bits of code and prior_code that differ), score (inner product
--             of the embeddings + the item's prior); best score first, ties by node_id
WITH asked AS (
    SELECT
        coded.code,
        coded.prior_code,
        embedded.embedding
    FROM published_codes AS coded
    INNER JOIN published_embeddings AS embedded
        ON coded.node_id = embedded.node_id
    WHERE
        coded.node_type = 'context' AND coded.external_id = :context_id AND coded.code_bits = :code_bits
),

compared AS (
    SELECT
        coded.node_id,
        asked.embedding AS query,
        bit_count(coded.prior_code ^ asked.prior_code) + hamming(coded.code, asked.code) AS differing
    FROM published_codes AS coded
    CROSS JOIN asked
    WHERE coded.node_type = 'item' AND coded.code_bits = :code_bits
),

near AS (
    SELECT
        node_id,
        query,
        differing,
        row_number() OVER (ORDER BY differing ASC, node_id ASC) AS place
    FROM compared
),

scored AS (
    SELECT
        item.node_id,
        item.external_id AS item_id,
        near.differing,
        vector_inner_product(near.query, item.embedding) + item.prior AS score
    FROM near
    INNER JOIN published_embeddings AS item
        ON near.node_id = item.node_id
    WHERE near.place <= :depth
),

ranked AS (
    SELECT
        row_number() OVER (ORDER BY score DESC, node_id ASC) AS rank,
        node_id,
        item_id,
        differing,
        score
    FROM scored
)

SELECT
    ranked.rank,
    ranked.item_id,
    node.name,
    ranked.differing,
    ranked.score
FROM ranked
INNER JOIN published_nodes AS node
    ON ranked.node_id = node.node_id
WHERE ranked.rank <= :num_results
ORDER BY ranked.rank;
