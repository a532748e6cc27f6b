"""The loop of one model: what is known raises triggers, they begin trainings, the gate decides, the new version serves.

book.py     what was decided, begun, ended, asked for and frozen: lines that are only added
state.py    what a book says: what is under way, who serves, what `decide` goes by
labels.py   when labels became known
ports.py    what the loop asks of the world
tick.py     one look at an instant
"""
