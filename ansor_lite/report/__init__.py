"""What the command line shows: a live table while tuning, and tables of results.

Read ``progress.py`` first: it folds the events of ``events.py`` into one frozen value. ``live.py``
draws that value, ``lines.py`` prints it where there is no terminal, ``tables.py`` prints results.
Only the command line imports this package; the library itself prints nothing.
"""
