-- Every run: its state, what it finished, where readers see it, and why it failed.
--
-- Parameters: none
-- Columns:    run_id, ds, state, stages (finished, in order), seconds (of the finished stages), shown (the
--             channels that show it now), changed_at, detail (why it failed)
WITH newest AS (
    SELECT
        run_id,
        max(ds) AS ds,
        min(seq) AS created,
        max(recorded_at) AS changed_at,
        max_by(state, seq) AS state,
        max_by(detail, seq) AS detail
    FROM runs
    GROUP BY run_id
),

stage_times AS (
    SELECT
        run_id,
        stage,
        max(seq) AS finished,
        max_by(seconds, seq) AS seconds
    FROM stage_log
    WHERE stage NOT LIKE '%/%' -- parts of stages
    GROUP BY run_id, stage
),

finished AS (
    SELECT
        run_id,
        transform(array_sort(collect_list(struct(finished, stage))), s -> s.stage) AS stages,
        sum(seconds) AS seconds
    FROM stage_times
    GROUP BY run_id
),

pointers AS (
    SELECT
        channel,
        max_by(run_id, seq) AS run_id
    FROM publications
    GROUP BY channel
),

shown AS (
    SELECT
        run_id,
        array_join(array_sort(collect_list(channel)), ' ') AS channels
    FROM pointers
    GROUP BY run_id
)

SELECT
    newest.run_id,
    newest.ds,
    newest.state,
    coalesce(array_join(finished.stages, ' '), '') AS stages,
    round(coalesce(finished.seconds, 0), 1) AS seconds,
    coalesce(shown.channels, '') AS shown,
    newest.changed_at,
    coalesce(newest.detail, '') AS detail
FROM newest
LEFT JOIN finished ON newest.run_id = finished.run_id
LEFT JOIN shown ON newest.run_id = shown.run_id
ORDER BY newest.created DESC, newest.run_id DESC;
