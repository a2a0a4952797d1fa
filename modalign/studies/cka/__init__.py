"""The chapter "Centred kernel alignment": the synthetic experiment, and real digits."""
