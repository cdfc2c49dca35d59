-- How old is what readers see? One row per channel; alert on hours_since_published or days_behind.
--
-- Parameters: none
-- Columns:    channel, run_id, ds, seq, published_at, hours_since_published, days_behind (today in UTC less
--             the day shown), publications (of the channel so far)
WITH pointers AS (
    SELECT
        channel,
        max_by(run_id, seq) AS run_id,
        max_by(ds, seq) AS ds,
        max(seq) AS seq,
        max_by(published_at, seq) AS published_at,
        count(*) AS publications
    FROM publications
    GROUP BY channel
)

SELECT
    channel,
    run_id,
    ds,
    seq,
    published_at,
    round((unix_timestamp(current_timestamp()) - unix_timestamp(published_at)) / 3600, 1)
        AS hours_since_published,
    datediff(current_date(), ds) AS days_behind,
    publications
FROM pointers
ORDER BY channel;
