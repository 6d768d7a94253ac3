"""Input that cannot work, over all scripts: each is answered in one sentence, with exit code 2.

A case is a script, its arguments, and what the sentence must name. ``asked`` runs the script as the
command line does, but in this process; nothing may be computed, and nothing written.
"""
