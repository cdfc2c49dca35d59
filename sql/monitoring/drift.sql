-- The figures each run was judged by, beside those of the run before: recall probe, drift, flipped bits.
-- Cosines and flipped bits exist only between runs of one model.
--
-- Parameters: none
-- Columns:    ds, run_id, state, metric, value, before (the same figure of the run of the day before that
--             has one), change
WITH states AS (
    SELECT
        run_id,
        max(ds) AS ds,
        max_by(state, seq) AS state
    FROM runs
    GROUP BY run_id
),

judged AS (
    SELECT
        states.ds,
        states.run_id,
        states.state,
        figures.metric,
        figures.value,
        lag(figures.value) OVER (
            PARTITION BY figures.metric ORDER BY states.ds, figures.recorded_at, states.run_id
        ) AS before
    FROM run_metrics AS figures
    INNER JOIN states ON figures.run_id = states.run_id
    WHERE figures.stage = 'audit_run'
)

SELECT
    ds,
    run_id,
    state,
    metric,
    round(value, 4) AS value,
    round(before, 4) AS before,
    round(value - before, 4) AS change
FROM judged
ORDER BY ds DESC, run_id DESC, metric ASC;
