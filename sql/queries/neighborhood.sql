-- What the random walks from one item visited most: what its embedding is made of.
--
-- Parameters: item_id  external id of the item, e.g. '1029743'
-- Columns:    rank, neighbor_id, name, visits, share (of the neighborhood's visits)
WITH listed AS (
    SELECT posexplode(arrays_zip(neighborhood.neighbors, neighborhood.visits)) AS (place, entry)
    FROM published_neighborhoods AS neighborhood
    INNER JOIN published_nodes AS item
        ON neighborhood.node = item.node_id AND item.node_type = 'item'
    WHERE neighborhood.relation = 'item_from_item' AND item.external_id = :item_id
)

SELECT
    listed.place + 1 AS rank,
    neighbor.external_id AS neighbor_id,
    neighbor.name,
    listed.entry.visits,
    listed.entry.visits / sum(listed.entry.visits) OVER () AS share
FROM listed
INNER JOIN published_nodes AS neighbor
    ON listed.entry.neighbors = neighbor.node_id AND neighbor.node_type = 'item'
ORDER BY rank;
