-- Items most similar to one item, nearest first.
--
-- Parameters: item_id  external id of the item, e.g. '1029743'
-- Columns:    rank, related_id, name, score (cosine, less where few contexts hold the item)
SELECT
    related.rank,
    related.related_id,
    node.name,
    related.score
FROM published_related AS related
INNER JOIN published_nodes AS node
    ON related.related_id = node.external_id AND node.node_type = 'item'
WHERE related.item_id = :item_id
ORDER BY related.rank;
