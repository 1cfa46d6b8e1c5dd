"""``jupyter flame``: what its commands share; the commands themselves lie in subcommands/.

Knows no notebook: output goes to a terminal or a pipe, as ssh's would.
Begin at __main__.py; command.py is what all commands are made from, index.py the list of them.
"""
