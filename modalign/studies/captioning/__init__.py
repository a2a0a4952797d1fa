"""The chapter "Captioning": Show, attend and tell, with CKA before its attention and without."""
