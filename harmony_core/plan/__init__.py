"""What a clip takes before it is made: memory by stage, operations, time, and what fits a GPU.

Everything is computed from a config and a clip's shape; no weights are read and nothing is run.
"""
