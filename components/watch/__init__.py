"""The timelines of an environment's models as web pages: what serves, how it does, what was seen, decided and promoted.

Only reads. `evergrow watch` starts it here; on a cluster it is a Deployment that is reached by a port-forward.
"""
