"""The commands of ``jupyter flame``: one file for each command, or for a few that are alike.

They know what all commands share, and hardly anything of each other.
Begin at the file with the command's name; cli/index.py says where each command is.
"""
