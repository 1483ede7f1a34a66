"""A checkpoint measured on the small world, whose truth is known exactly.

- :mod:`.plan`: which rows there are, as data, and how the clips of a row come to be;
- :mod:`.runs`: clips through the model and the codecs, a batch at a time;
- :mod:`.maps`: whether sound-source maps point at what sounds;
- :mod:`.record`: what was seen and heard, and the figures made of it;
- :mod:`.values`: of every clip, in a file, to be put together from several processes;
- :mod:`.measure`: the whole measurement.
"""
