"""What each chapter runs: one study a chapter, with the stem of its notebook."""
