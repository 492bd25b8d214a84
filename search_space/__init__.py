"""What may be tried: predicates over the DAG, sketch rules, sampling and evolution of candidates.

Read ``analysis.py`` (the questions rules ask), then ``presets.py`` (the ordered rule tables) and
``sketch_generation.py`` (the loop over them). No rule knows the name of an operator.
"""
