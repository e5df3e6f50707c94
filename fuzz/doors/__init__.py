"""One module a group of doors: a function of bytes for each, and the valid inputs from which fuzzing sets out."""
