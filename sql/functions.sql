-- Functions over codes, for queries on the published views. `walkbits.tables.views.register_views` installs
-- them in a session; they are temporary, and nothing but Spark evaluates them.
--
-- hamming(code, other)                             bits in which two codes of one width differ
-- code_of(coordinates)                             the code of coordinates: their signs, bit = (x > 0)
-- code_bucket(code, band, band_bits)               the number that a band of a code spells, as in lsh_buckets
-- asymmetric_score(weights, code, scale, prior)    about the float score: scale * <weights, signs> + prior;
--     weights: what each bit counts for the query, its embedding's products with the directions of
--     published_code_directions in order of their bits; further planes have none
CREATE OR REPLACE TEMPORARY FUNCTION hamming (code ARRAY<BIGINT>, other ARRAY<BIGINT>)
RETURNS INT
RETURN aggregate(
    zip_with(code, other, (a, b) -> bit_count(a ^ b)), 0, (differing, bits) -> differing + bits
);

CREATE OR REPLACE TEMPORARY FUNCTION code_of (coordinates ARRAY<DOUBLE>)
RETURNS ARRAY<BIGINT>
RETURN transform(
    sequence(0, size(coordinates) DIV 64 - 1),
    k -> aggregate(
        sequence(0, 63), 0L, (word, b) -> word | shiftleft(cast(coordinates[k * 64 + b] > 0 AS BIGINT), b)
    )
);

CREATE OR REPLACE TEMPORARY FUNCTION code_bucket (code ARRAY<BIGINT>, band INT, band_bits INT)
RETURNS BIGINT
RETURN aggregate(
    sequence(0, band_bits - 1),
    0L,
    (bucket, b) -> bucket | shiftleft(
        1L & shiftrightunsigned(
            code[cast((band * band_bits + b) DIV 64 AS INT)], (band * band_bits + b) % 64
        ),
        b
    )
);

CREATE OR REPLACE TEMPORARY FUNCTION asymmetric_score (
    weights ARRAY<DOUBLE>, code ARRAY<BIGINT>, scale FLOAT, prior FLOAT
)
RETURNS DOUBLE
RETURN scale * aggregate(
    sequence(0, size(weights) - 1),
    0D,
    (total, b) -> total
    + weights[b] * (2 * (shiftrightunsigned(code[cast(b DIV 64 AS INT)], b % 64) & 1L) - 1)
) + prior;
