"""The chapter "Choosing": the methods of the four papers on one model, alone and together."""
