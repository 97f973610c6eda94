"""Atomic species."""

#: Rows of embeddings and tables by atomic number: z = 0 (padding) to 100.
NUM_SPECIES = 101
