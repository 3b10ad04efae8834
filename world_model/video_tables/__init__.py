"""The paper's video tables at the scale that is here: ``python -m world_model.evaluate``.

rows.py         which rows a table has, and the models that they run on
clips.py        the true videos: held-out layouts recorded, or a dataset's
imagine.py      what a model makes of them: the next chunk from the true past, or the whole video
metrics.py      how each metric is called and shown
judge.py        every metric of a set of videos, with intervals
adversaries.py  videos that a metric must rank last, and what every figure is to be read beside
costs.py        table 3: seconds and memory
page.py         the markdown
plots.py        the pictures
"""
