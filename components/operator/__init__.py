"""Carry out rollouts on a cluster: what ContinualModels and ModelRollouts ask for.

work_queue.py  models to look at, each once and never by two at once
loop.py        threads that look at them, again later where it failed
watch.py       kopf's watches, which keep what is known of the cluster true and say which model to look at
lease.py       who of several operators works
worker.py      one process aside for what takes much memory: evidence and the registry; aside.py is what it does
health.py      /healthz and /metrics
"""
