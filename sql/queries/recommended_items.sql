-- Items recommended to one context: those of best score among what it has not touched.
--
-- Parameters: context_id  external id of the context, e.g. '31198459904'
-- Columns:    rank, item_id, name, score (inner product of the embeddings + the item's prior)
SELECT
    recommended.rank,
    recommended.item_id,
    node.name,
    recommended.score
FROM published_recommendations AS recommended
INNER JOIN published_nodes AS node
    ON recommended.item_id = node.external_id AND node.node_type = 'item'
WHERE recommended.context_id = :context_id
ORDER BY recommended.rank;
