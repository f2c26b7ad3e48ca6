"""Training objectives: modules that take a batch and give its loss, whatever is trained in them.

A module computes its whole loss in ``forward``, so that whatever wraps it (DistributedDataParallel, autocast)
sees every weight that is used. In several processes each gives a loss whose average over them is the loss of
one process with all rows; see :mod:`magicap.training.processes`.
"""
