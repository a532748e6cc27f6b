"""The past replayed under many retraining policies, as it was known at each instant.

policies.py  the policies of a PolicySet, each a whole document
past.py      what happened: rows, features as of each, labels and when they became known
tasks.py     what costs time, each a pure function with a key: select, fit, judge, serve
looks.py     the same of what monitoring would have seen: when days are matured, harm, drift
rolls.py     the same of rollouts: looked at as live, and who answers meanwhile
work.py      tasks done once, whoever asks, in this process or in several, and kept
replay.py    one policy, instant by instant
run.py       all policies of a set
results.py   what became of each policy
choose.py    which policy to take, and how that did on days that it was not chosen by
compare.py   quality, regret, Pareto front, significance of all of them
page.py      all of that to look at
"""
