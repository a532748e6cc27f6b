"""How a new version takes over: what is decided at each moment, and by which evidence.

moves.py      what a strategy is made of: shares of the traffic, and the evidence without which they are not left
single.py, shadow.py, canary.py, blue_green.py, ab_test.py, bandit.py    the strategies
machine.py    the state machine: status x what is seen x now -> status
desired.py    what must be so in the world while a rollout has a status
"""
