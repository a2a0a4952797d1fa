"""The chapter "Video QA": TVQA_abc and STAGE, with CKA before their attention and without."""
