"""Hot code: serves modules of the user's folders to imports on a far side, and changes functions that run there.

Gives away nothing but what it has listed itself, by name; knows no front end.
Begin at serving.py; folders.py makes the list, prefetch.py says what a module will need next.
"""
