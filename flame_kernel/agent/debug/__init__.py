"""The debugger: debugpy's tracer, reached inside the process, and the list of variables.

Knows no link: messages of the Debug Adapter Protocol in and out.
Begin at debugger.py; tracing.py is what is traced.
"""
