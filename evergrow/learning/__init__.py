"""From a training set to a fitted, calibrated model in a bundle that answers the same way everywhere."""
