"""What runs in containers: one folder a component, `step.py` the function and `component.py` its KFP interface."""
