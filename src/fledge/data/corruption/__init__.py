"""Corruption: windows of text into what a model reads and what it must say, for each self-supervised objective.

Every corruption is a pure function `(example, generator, setting) -> samples`; the generator is seeded by the run, the
pass over the data and the number of the example, so that training resumes to the same bits and no state is hidden.
"""
