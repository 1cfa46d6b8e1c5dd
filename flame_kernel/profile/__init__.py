"""Asks far sides where they spend time and memory; merges, compares, draws (flame graphs) and saves the answers.

Knows no front end: a profile is words, HTML, or a file.
Begin at profile.py; asking.py takes one.
"""
