"""Training, evaluation and prediction: the loops, the optimiser and its schedule, checkpoints, distributed
processes, logging.
"""
