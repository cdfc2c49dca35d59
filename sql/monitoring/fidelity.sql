-- How near the sampled walks come to the exact neighborhoods, per run and relation.
--
-- Parameters: none
-- Columns:    run_id, metric (its name ends in the relation), value (0 to 1, higher is nearer), unit
SELECT
    run_id,
    metric,
    round(value, 4) AS value,
    unit
FROM run_metrics
WHERE stage = 'build_neighborhoods'
ORDER BY run_id, metric;
