"""When a model is trained again: each trigger a file, and one decision of all of them.

asked, data_volume, model_age, schedule, performance, data_change: `judge`, which passes where the trigger fires
look.py       monitoring's newest look, if it says something
history.py    what is known of a model when it is decided
restraint.py  what keeps a training that is wanted from being begun
decide.py     the decision, with all that it was made of
"""
