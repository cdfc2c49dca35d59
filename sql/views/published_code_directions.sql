-- What the bits of the published codes are the signs of.
CREATE OR REPLACE TEMPORARY VIEW published_code_directions AS
SELECT
    run_id,
    bit,
    band,
    place,
    direction
FROM code_directions
WHERE run_id = (SELECT max_by(run_id, seq) FROM publications WHERE channel = 'live');
