"""How good a candidate looks: feature table and extraction, dataset, models, metrics.

Read ``features.py`` first (what is seen), then ``extract.py`` (how, for a whole population at once)
and ``base.py`` (what a model does with it). Nothing here knows how candidates are generated,
searched or measured.
"""
