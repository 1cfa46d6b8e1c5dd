"""``jupyter flame``: a file for each family of commands.

Knows no notebook: output goes to a terminal or a pipe, as ssh's would.
Begin at __main__.py; command.py is what all commands share, index.py the list of them.
"""
