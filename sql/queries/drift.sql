-- The published run against the one it replaced: what came, what went, how far embeddings moved.
-- Cosines and bits are comparable only while both runs used one model and one seed.
--
-- Parameters: none
-- Columns:    run_id, prev_run_id, node_type, nodes, prev_nodes, nodes_change,
--             common (nodes in both, by external id), mean_cosine (of their embeddings, zero vectors
--             left out), share_of_bits_flipped (of their widest codes); null between widths
WITH now AS (
    SELECT
        embedded.run_id,
        embedded.node_type,
        embedded.external_id,
        embedded.embedding,
        coded.code_bits,
        coded.code
    FROM published_embeddings AS embedded
    INNER JOIN published_codes AS coded
        ON embedded.node_id = coded.node_id
    WHERE coded.code_bits = (SELECT max(code_bits) FROM published_codes)
),

-- None where that run had codes of other widths only.
past_codes AS (
    SELECT
        node_id,
        code_bits,
        code
    FROM codes
    WHERE
        run_id = (SELECT prev_run_id FROM published_run)
        AND code_bits = (SELECT max(code_bits) FROM published_codes)
),

before AS (
    SELECT
        embedded.run_id,
        embedded.node_type,
        embedded.external_id,
        embedded.embedding,
        coded.code_bits,
        coded.code
    FROM embeddings AS embedded
    LEFT JOIN past_codes AS coded
        ON embedded.node_id = coded.node_id
    WHERE embedded.run_id = (SELECT prev_run_id FROM published_run)
),

paired AS (
    SELECT
        coalesce(now.node_type, before.node_type) AS node_type,
        now.run_id,
        before.run_id AS prev_run_id,
        CASE
            WHEN size(now.embedding) = size(before.embedding)
                THEN vector_cosine_similarity(now.embedding, before.embedding)
        END AS cosine,
        hamming(now.code, before.code) / now.code_bits AS flipped
    FROM now
    FULL OUTER JOIN before
        ON now.node_type = before.node_type AND now.external_id = before.external_id
)

SELECT
    (SELECT run_id FROM published_run) AS run_id,
    (SELECT prev_run_id FROM published_run) AS prev_run_id,
    node_type,
    count(run_id) AS nodes,
    count(prev_run_id) AS prev_nodes,
    count(run_id) - count(prev_run_id) AS nodes_change,
    count_if(run_id IS NOT NULL AND prev_run_id IS NOT NULL) AS common,
    avg(cosine) AS mean_cosine,
    avg(flipped) AS share_of_bits_flipped
FROM paired
GROUP BY node_type
ORDER BY node_type;
