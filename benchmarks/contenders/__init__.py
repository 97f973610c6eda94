"""One module for each implementation in the race; see :mod:`worker` for what it must offer."""
