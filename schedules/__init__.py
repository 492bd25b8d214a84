"""What a schedule is: a compute DAG, the steps applied to it, and what those steps mean.

Read ``dag.py`` first (the problem), then ``steps.py`` (the vocabulary), ``nest.py`` (what a
batch of candidates looks like as arrays) and ``lower`` (one candidate as TensorIR).
Nothing here knows how candidates are searched, scored or measured.
"""
