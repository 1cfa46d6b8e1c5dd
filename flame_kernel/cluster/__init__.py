"""A Dask cluster on hosts that Flame reaches: sessions start and watch dask's processes there.
Knows no notebook and no command line; others import only loading.py and commands.py, which need no dask.
Begin at cluster.py; far_side.py and dask_program.py are sent to the hosts."""
