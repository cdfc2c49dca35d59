-- What each stage of each run cost and how evenly its tasks were loaded.
--
-- Parameters: none
-- Columns:    run_id, stage, seconds (wall), rows and bytes (written), rows_per_second, tasks, failed_tasks,
--             task_seconds (summed over tasks), read_bytes, shuffled_bytes, spilled_bytes, skew (longest task
--             over the median one, in the Spark stage where the longest weighs most)
WITH written AS (
    SELECT
        run_id,
        stage,
        seq,
        max(seconds) AS seconds,
        sum(rows) AS rows,
        sum(bytes) AS bytes
    FROM stage_log
    WHERE output NOT LIKE 'run_metrics%'
    GROUP BY run_id, stage, seq
),

newest AS (
    SELECT
        run_id,
        stage,
        max(seq) AS seq,
        max_by(seconds, seq) AS seconds,
        max_by(rows, seq) AS rows,
        max_by(bytes, seq) AS bytes
    FROM written
    GROUP BY run_id, stage
),

figures AS (
    SELECT
        run_id,
        regexp_replace(stage, '[.]cost$', '') AS stage,
        map_from_entries(collect_list(struct(metric, value))) AS value
    FROM run_metrics
    WHERE stage LIKE '%.cost'
    GROUP BY run_id, stage
)

SELECT
    newest.run_id,
    newest.stage,
    round(newest.seconds, 1) AS seconds,
    newest.rows,
    newest.bytes,
    round(try_divide(newest.rows, newest.seconds), 0) AS rows_per_second,
    cast(figures.value['tasks'] AS BIGINT) AS tasks,
    cast(figures.value['failed_tasks'] AS BIGINT) AS failed_tasks,
    round(figures.value['task_seconds'], 1) AS task_seconds,
    cast(figures.value['read_bytes'] AS BIGINT) AS read_bytes,
    cast(figures.value['shuffled_bytes'] AS BIGINT) AS shuffled_bytes,
    cast(figures.value['spilled_bytes'] AS BIGINT) AS spilled_bytes,
    round(try_divide(figures.value['longest_task_seconds'], figures.value['median_task_seconds']), 1) AS skew
FROM newest
LEFT JOIN figures ON newest.run_id = figures.run_id AND newest.stage = figures.stage
ORDER BY newest.run_id, newest.seq;
