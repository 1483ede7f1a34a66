"""A small world whose truth is known exactly: procedural clips with the time of every event, and measures of sync on them.

``clip`` is the value; ``dataset`` makes clips from seeds; ``scenes``, ``physics``, ``face``, ``mouth``, ``talk``, ``speech``,
``sound`` and ``drawing`` are what it makes them of. ``trackers`` find events in pictures and in sound, ``judges`` are small
networks trained on true clips, ``metrics`` compares, ``evaluation`` puts the figures of pairs beside those of the truth.
"""
