"""What is seen of a model in service: profiles, ground truth, drift, harm, and what they are held against."""
