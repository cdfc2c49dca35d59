"""walkbits: random-walk graph embeddings, binary codes and LSH buckets on Spark."""

__version__ = "0.1.0"
