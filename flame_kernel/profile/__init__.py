"""Where far sides spend their time and memory: profiles asked for, merged, compared, drawn as flame graphs, saved.

Knows no front end: a profile is words, HTML, or a file.
Begin at profile.py; asking.py takes one.
"""
