"""From a network to tasks: Relax passes (``passes.py``) and the plan of kernel calls (``plan.py``).

Read ``plan.py`` first. ``fold.py`` evaluates constants in numpy, ``simplify.py`` clears the way for
fusion, ``transposes.py`` brings transpositions together, ``windows.py`` makes averages over
channels elementwise, ``bounds.py`` keeps indices inside their tables, ``chains.py`` finds kernels
that one kernel may stand for, ``concat.py`` removes copies once kernels are scheduled. All of it is
a pure function of the model, so that replay makes the same decisions.
"""
