"""The model server: KServe's, with a model that looks up its own features."""
