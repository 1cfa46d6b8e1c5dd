"""Nothing that a server sends may run or harm here: read (reader), shown (rendering), unpickled only under trust.

Knows no target: it is told how much to allow.
SECURITY.md lists what each file stands against.
"""
