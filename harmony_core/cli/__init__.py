"""The commands of ``harmony``, one module each.

A command module has ``SUMMARY`` (one line), ``add_arguments(parser)`` and ``run(args)``; it imports what it needs inside
``run``, so that ``harmony --help`` is quick. A ``ValueError`` is the user's: it is printed as one sentence, without a trace.
"""
