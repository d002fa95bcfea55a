"""`python -m mpt_edge`, for launchers that start modules."""

from mpt_edge.cli import main_process

main_process()
