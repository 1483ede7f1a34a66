"""Training: data sets to cached latents, losses, a loop that stops and resumes exactly, and the codecs' own training.

Everything random about a step, and which clips it sees, is a function of the seed and the step's number alone. So a resumed
run repeats what an uninterrupted one would have done, and several processes do together what one would do.
"""
