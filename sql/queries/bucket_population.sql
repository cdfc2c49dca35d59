-- How evenly each band spreads the items over its buckets.
--
-- Parameters: none
-- Columns:    band, items, buckets (not empty), mean_items and max_items per bucket,
--             gini (0: all equal, towards 1: one holds all),
--             found_per_probe (items in the bucket of a random item)
WITH populations AS (
    SELECT
        band,
        bucket,
        count(*) AS items
    FROM published_lsh_buckets
    GROUP BY band, bucket
),

ordered AS (
    SELECT
        band,
        items,
        row_number() OVER (PARTITION BY band ORDER BY items ASC, bucket ASC) AS place
    FROM populations
)

SELECT
    band,
    sum(items) AS items,
    count(*) AS buckets,
    avg(items) AS mean_items,
    max(items) AS max_items,
    2.0D * sum(place * items) / (count(*) * sum(items)) - (count(*) + 1.0D) / count(*) AS gini,
    sum(items * items) / sum(items) AS found_per_probe
FROM ordered
GROUP BY band
ORDER BY band;
