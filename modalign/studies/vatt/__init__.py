"""The chapter "VATT": triplets, pretraining by each method, and the cosine as a detector."""
