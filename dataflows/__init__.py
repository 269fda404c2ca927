"""The job: one graph for live and replay, its Bytewax adapters, its processes and the command line."""
