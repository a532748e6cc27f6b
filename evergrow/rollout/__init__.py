"""How a new version takes over: a pure state machine, the evidence it goes by, and the loop that carries it out.

asking.py      a rollout as it is asked for, or put on record
attempt.py     one as it was read, with what somebody orders meanwhile
moves.py       what strategies are made of; single, shadow, canary, blue_green, ab_test and bandit are each a file
machine.py     status x what is seen x now -> status
desired.py     what must be so in the world while a rollout has a status
control.py     the loop: look, decide, write down, act
conditions.py  a status in Kubernetes' terms
answers.py     the prediction log of a rollout: draws, copies, pairs
prior.py       what is known before the first request: plans of tests, and how losses are foreseen
analysis.py    what the checks say, in their order; guardrails.py, gains.py and bandit's shares are its tests
evidence.py    the value that all of it comes to
"""
