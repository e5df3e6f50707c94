"""Child processes: starting, assigning, watching and replacing them."""
