"""The chapter "CODIS": pretraining on pictures and captions, paper Table 4, and its tasks."""
