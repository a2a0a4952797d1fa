"""The experiments of each chapter: one study a chapter, with the stem of its notebook."""
