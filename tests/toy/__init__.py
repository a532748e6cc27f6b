"""A pipeline that is quick, to see how runs succeed and fail."""
