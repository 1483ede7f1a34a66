"""What is proven and measured on a GPU, in pieces of a few minutes: see :mod:`.stages` and ``harmony bench gpu --help``."""
