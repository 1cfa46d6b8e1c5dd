"""The commands of ``jupyter flame``: a file for each, or for a few of one kind.

They know what all commands share, and nothing of each other but a prompt's page.
Begin at the file that is called like the command; index.py, one room up, says where each is.
"""
