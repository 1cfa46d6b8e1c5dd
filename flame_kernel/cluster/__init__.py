"""A Dask cluster on the hosts that Flame reaches: processes of dask there, started and watched through sessions.
Knows no notebook and no command line; dask.distributed is imported by cluster.py and processes.py alone.
Begin at cluster.py; far_side.py and program.py are sent to the hosts."""
