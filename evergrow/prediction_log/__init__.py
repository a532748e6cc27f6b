"""The prediction log: every answered prediction, kept where nothing can lose it before its answer is sent.

records.py    what is kept of a request, as a line
segments.py   the files that a server appends lines to, and what is found of them after a kill
tables.py     a segment as rows of Parquet
shipping.py   from segments to the store, each once
reading.py    what is in the store, by model and day
"""
